"""When a training starts by itself: the policy `retrain`, each of its triggers with its reason.

What is compared is content, never events: what the model that was trained last has seen, and what there
is now. So nothing happens because something was merely made again. A reason counts once: what a request
was made for is remembered, and whatever became of it (`Situation` is small, a sensor keeps it), it takes
more of the same, or something else, for the next request.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from captcha_assets.images.local_tables import batches_of
from captcha_assets.images.splits import lacking_images
from captcha_assets.models import registry
from captcha_assets.models.folder import ModelConfig, read_config
from captcha_assets.models.provenance import trained_batches
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.storage import fetched


@dataclass(frozen=True)
class Situation:
    """What decides whether to train, at one moment.

    Attributes:
        model_id: the model that was trained last; None where there is none.
        trained_images: images of the training split that it found.
        new_images: images that are in the training split now and were not then.
        removed_images: images that it was trained on and that are not in the training split any more.
        drifted: batches that it did not see, with images in the splits, whose drift check failed.
        code: version of the training's code now, and that it was trained with (None: no model).
        configuration: version of the production settings now, and of those it was trained with (None: no
            model, or not recorded).
        blocked: why nothing may be trained now, whatever the reasons.
    """

    model_id: str | None
    trained_images: int
    new_images: int
    drifted: tuple[str, ...]
    code: tuple[str, str | None]
    configuration: tuple[str, str | None]
    blocked: tuple[str, ...] = ()
    removed_images: int = 0

    def to_json(self) -> str:
        """Return the situation as text, to be remembered."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "Situation | None":
        """Return the situation that was remembered; None where none was, or by another version."""
        try:
            stored: dict[str, Any] = json.loads(text or "null") or {}
            values: Any = {key: tuple(one) if isinstance(one, list) else one for key, one in stored.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Reason:
    """A trigger of the policy that asks for a training, and its figures in words."""

    trigger: str
    words: str


def situation(paths: Paths, code: str, configuration: str) -> Situation:
    """Look at the splits, at the validation results, and at the model that was trained last.

    Args:
        paths: where things are kept.
        code: version of the training's code now.
        configuration: version of the production settings now.

    Raises:
        RegistryError: the registry is damaged.
    """
    blocked = tuple(_blocked(paths))
    candidate = registry.candidate(paths.models)
    if candidate is None:
        new = 0 if blocked else len(_training_images(str(paths.splits)))
        return Situation(None, 0, new, (), (code, None), (configuration, None), blocked)
    with fetched(registry.model_folder(paths.models, candidate.model_id)) as folder:
        trained = read_config(folder)
    seen = paths.training_splits(candidate.model_id)
    before = pl.DataFrame(schema={"image_id": pl.String})
    try:
        before = _training_images(str(seen)) if seen.exists() else before
    except (pl.exceptions.PolarsError, OSError):
        blocked += (f"{seen} cannot be read: materialize resnet18 again (captcha-assets update)",)
    now = before.clear() if blocked else _training_images(str(paths.splits))
    return Situation(
        model_id=candidate.model_id,
        trained_images=len(before),
        new_images=len(now.join(before, on="image_id", how="anti")),
        removed_images=0 if blocked else len(before.join(now, on="image_id", how="anti")),
        drifted=() if blocked else tuple(_drifted(paths, trained)),
        code=(code, trained.code_version),
        configuration=(configuration, trained.provenance.get("configuration")),
        blocked=blocked,
    )


def _blocked(paths: Paths) -> Iterator[str]:
    if not paths.splits.exists():
        yield "there are no splits yet"
        return
    for table in ("image_index", "splits"):
        if not validation_result.has_passed(paths.validation_results(table)):
            yield f"a blocking check of {table} fails"
    try:
        batches = batches_of(paths.splits)
    except (pl.exceptions.PolarsError, OSError):
        yield f"{paths.splits} cannot be read: materialize it again (captcha-assets update)"
        return
    for batch in batches:
        if not paths.image_table(batch).exists():
            yield f"the splits hold images of batch {batch}, whose image_table is not there"
    if why := lacking_images(paths.splits):
        yield why


def _training_images(splits: str) -> pl.DataFrame:
    return pl.scan_parquet(splits).filter(pl.col("split") == "train").select("image_id").collect()


def _drifted(paths: Paths, trained: ModelConfig) -> Iterator[str]:
    seen = set(trained_batches(trained.provenance))
    for batch in batches_of(paths.splits):
        folder = paths.validation_results("drift", batch)
        if batch not in seen and validation_result.has_warnings(folder):
            yield batch


def reasons(now: Situation, handled: Situation | None, new_images: int, new_share: float) -> list[Reason]:
    """Return why a training is to start now; nothing where it is not.

    Args:
        now: the situation.
        handled: the situation of the last request, whatever became of it; None where there was none.
        new_images: so many new images are enough, if they are also ...
        new_share: ... this share of the images the last model was trained on.
    """
    if now.blocked:
        return []
    # A request that led to another model is history: that model is what is compared with now.
    before = handled if handled and handled.model_id == now.model_id else None
    return [
        *_first(now, before),
        *_images(now, before, new_images, new_share),
        *_removed(now, before, new_images, new_share),
        *_drift(now, before),
        *_versions(now, before),
    ]


def _first(now: Situation, before: Situation | None) -> Iterator[Reason]:
    if now.model_id is None and before is None:
        yield Reason("first model", "the first training: no model was there")


def _images(now: Situation, before: Situation | None, number: int, share: float) -> Iterator[Reason]:
    if now.model_id is None and before is None:
        return  # the first model needs no number
    new = now.new_images - (before.new_images if before else 0)
    if new >= enough(now, number, share):
        since = "the last request" if before else now.model_id
        yield Reason(
            "new images",
            f"{new:,} new training images since {since}, {enough(now, number, share):,} are enough",
        )


def _removed(now: Situation, before: Situation | None, number: int, share: float) -> Iterator[Reason]:
    removed = now.removed_images - (before.removed_images if before else 0)
    if now.model_id is not None and removed >= enough(now, number, share):
        yield Reason(
            "removed images",
            f"{removed:,} images that {now.model_id} was trained on were removed, "
            f"{enough(now, number, share):,} are enough",
        )


def enough(now: Situation, number: int, share: float) -> int:
    """Return how many new or removed images are enough: so many, and so large a share of those trained on."""
    return max(number, round(share * now.trained_images))


def _drift(now: Situation, before: Situation | None) -> Iterator[Reason]:
    drifted = [name for name in now.drifted if not before or name not in before.drifted]
    if drifted:
        yield Reason("drift", f"the drift check failed for {', '.join(drifted)}")


def _versions(now: Situation, before: Situation | None) -> Iterator[Reason]:
    for trigger, (version, then) in (("code", now.code), ("configuration", now.configuration)):
        handled = getattr(before, trigger)[0] if before else None
        if then is not None and version not in (then, handled):
            yield Reason(trigger, _changed(trigger, version, then))


def _changed(trigger: str, version: str, then: str) -> str:
    if trigger == "configuration":
        return f"the model was trained with settings {then}, the production settings are {version}"
    return f"the training's code changed from {then} to {version}"


def in_words(now: Situation, number: int, share: float) -> str:
    """Say where every trigger stands: what a look at the policy shows while nothing happens."""
    if now.blocked:
        return f"no training: {'; '.join(now.blocked)}"
    if now.model_id is None:
        return "the first training, as soon as there are splits"
    changed = [
        _changed(name, version, then)
        for name, (version, then) in (("code", now.code), ("configuration", now.configuration))
        if then not in (None, version)
    ]
    return (
        f"{now.new_images:,} of {enough(now, number, share):,} new training images since {now.model_id}"
        f"{f', {now.removed_images:,} removed' if now.removed_images else ''}; "
        f"drifted batches with new images: {', '.join(now.drifted) or 'none'}; "
        f"{'; '.join(changed) or 'code and settings as in the last training'}"
    )
