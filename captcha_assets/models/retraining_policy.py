"""When a training starts automatically: the policy `retrain` and its triggers.

The policy compares content, not events: the data and settings that the latest model was trained with, and
those of now. So an asset that is materialized again with the same content triggers nothing. A sensor stores
the `Situation` of its last request: whether that training succeeded or not, the next request needs further
new data or another change.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images import table_parts
from captcha_assets.images.local_tables import batches_of
from captcha_assets.images.split_assignment import lacking_images
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.models import registry, served_drift
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.training_provenance import trained_batches
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.quality.validation_result import ValidationResultError
from captcha_assets.settings import Settings
from captcha_assets.sources import correction_batches


@dataclass(frozen=True)
class Situation:
    """What decides whether to train, at one moment.

    Attributes:
        model_id: the model that was trained last; None where there is none.
        trained_images: images of the training split that it found.
        new_images: images that are in the training split now and were not then.
        removed_images: images that it was trained on and that are not in the training split any more.
        served_drift: what drifted of the predictions that the champion gave last; None without an alarm.
        corrections: corrected images that have a split now and had none then.
        new_batches: batches, other than corrections, that have images in the splits now and had none then.
        drifted: batches that it did not see, with images in the splits, whose drift check failed; of
            corrections, none.
        code: version of the training's code now, and that it was trained with (None: no model).
        configuration: version of the production settings now, and of those it was trained with (None: no
            model, or not recorded).
        differing: the production settings that it was not trained with, see `differing_settings`.
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
    served_drift: str | None = None
    corrections: int = 0
    new_batches: tuple[str, ...] = ()
    differing: str = ""

    def to_json(self) -> str:
        """Return the situation as JSON, to be stored."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None) -> "Situation | None":
        """Return the stored situation; None where there is none, or one of another version."""
        try:
            stored: dict[str, Any] = json.loads(text or "null") or {}
            values: Any = {key: tuple(one) if isinstance(one, list) else one for key, one in stored.items()}
            return cls(**values)
        except (ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class Limits:
    """How much must be new before a training starts.

    Attributes:
        new_images: so many new images are enough, if they are also ...
        new_share: ... this share of the images the last model was trained on.
        corrections: so many corrected images are enough where served predictions drift.
    """

    new_images: int
    new_share: float
    corrections: int

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        """Return the limits of an installation."""
        return cls(settings.retrain_new_images, settings.retrain_new_share, settings.retrain_corrections)


@dataclass(frozen=True)
class Reason:
    """A trigger of the policy that asks for a training, and its figures in words."""

    trigger: str
    words: str


def differing_settings(
    trained: Mapping[str, Any], wanted: Mapping[str, Any], whose: str = "production"
) -> str:
    """Return in which settings a model differs from those wanted, with both values; empty for none.

    Args:
        trained: settings that the model was trained with, by name; those that are not recorded are left out.
        wanted: settings by name.
        whose: what stands before the values that are wanted.
    """
    return "; ".join(
        f"{name}: trained with {_shown(trained[name])}, {whose} {_shown(value)}"
        for name, value in wanted.items()
        if name in trained and value != trained[name]
    )


def _shown(value: Any) -> str:
    return "all" if value is None else str(value)  # only `sample_size` may be None


def situation(paths: Paths, code: str, configuration: str, production: Mapping[str, Any]) -> Situation:
    """Return the situation from the splits, the validation results, and the model that was trained last.

    Args:
        paths: where things are kept.
        code: version of the training's code now.
        configuration: version of the production settings now.
        production: these settings by name, with values that JSON knows.

    Raises:
        RegistryError: the registry is damaged.
    """
    blocked = tuple(_blocked(paths))
    candidate = registry.candidate(paths.models)
    if candidate is None:
        new = 0 if blocked else len(_of_training(_split_images(paths.splits)))
        return Situation(None, 0, new, (), (code, None), (configuration, None), blocked)
    trained = registry.config(paths.models, candidate.model_id)
    seen = paths.training_splits(candidate.model_id)
    before = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String))
    try:
        before = _split_images(seen) if seen.exists() else before
    except (pl.exceptions.PolarsError, OSError):
        blocked += (f"{seen} cannot be read: materialize resnet18 again (captcha-assets update)",)
    now = before.clear() if blocked else _split_images(paths.splits)
    trained_before, trained_now = _of_training(before), _of_training(now)
    alarm = served_drift.alarm(paths)
    return Situation(
        model_id=candidate.model_id,
        trained_images=len(trained_before),
        new_images=len(trained_now.join(trained_before, on="image_id", how="anti")),
        removed_images=0 if blocked else len(trained_before.join(trained_now, on="image_id", how="anti")),
        drifted=() if blocked else tuple(_drifted(paths, trained)),
        code=(code, trained.code_version),
        configuration=(configuration, trained.provenance.get("configuration")),
        differing=differing_settings(trained.settings, production),
        blocked=blocked,
        served_drift=str(alarm) if alarm else None,
        corrections=_new_corrections(now, before),
        new_batches=_new_batches(now, before),
    )


def _blocked(paths: Paths) -> Iterator[str]:
    if not table_parts.exists(paths.splits):
        yield _without_splits(paths)
        return
    for table in ("image_index", "splits"):
        try:
            if not validation_result.load(paths.validation_results(table)).passed:
                yield f"a blocking check of {table} fails"
        except ValidationResultError as error:
            yield str(error)
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


def _without_splits(paths: Paths) -> str:
    record = AssignmentRecord.of(paths)
    if any(record.folder.glob("*")):
        return (
            f"the splits are lost ({paths.splits} is missing): captcha-assets update materializes them again"
        )
    if registry.pointed_at(paths.models) is None:
        return "there are no splits yet"
    return f"the splits and all split assignments ({record.folder}) are lost: {record.how_to_restore}"


#: What is compared of the splits of two moments.
_COLUMNS = ("image_id", "split", "batch")


def _split_images(splits: AnyPath) -> pl.DataFrame:
    """Return the images that have a split."""
    return table_parts.scan(splits).select(_COLUMNS).drop_nulls("split").collect()


def _of_training(images: pl.DataFrame) -> pl.DataFrame:
    return images.filter(pl.col("split") == "train")


def _new_corrections(now: pl.DataFrame, before: pl.DataFrame) -> int:
    new = now.join(before, on="image_id", how="anti")
    return sum(correction_batches.day_of(batch) is not None for batch in new["batch"])


def _new_batches(now: pl.DataFrame, before: pl.DataFrame) -> tuple[str, ...]:
    new = set(now["batch"]) - set(before["batch"])
    return tuple(sorted(batch for batch in new if correction_batches.day_of(batch) is None))


def _drifted(paths: Paths, trained: ModelConfig) -> Iterator[str]:
    """Yield the drifted batches; corrections are chosen by people, so that their drift says nothing."""
    seen = set(trained_batches(trained.provenance))
    for batch in batches_of(paths.splits):
        if batch in seen or correction_batches.day_of(batch):
            continue
        if validation_result.has_warnings(paths.validation_results("drift", batch)):
            yield batch


def reasons(now: Situation, handled: Situation | None, limits: Limits) -> list[Reason]:
    """Return why a training is to start now; nothing where it is not.

    Args:
        now: the situation.
        handled: the situation of the last request, whatever became of it; None where there was none.
        limits: how much must be new.
    """
    if now.blocked:
        return []
    # A request that led to another model is history: that model is what is compared with now.
    before = handled if handled and handled.model_id == now.model_id else None
    return [
        *_first(now, before),
        *_images(now, before, limits),
        *_removed(now, before, limits),
        *_drift(now, before),
        *_served_drift(now, before, limits),
        *_versions(now, before),
    ]


def _first(now: Situation, before: Situation | None) -> Iterator[Reason]:
    if now.model_id is None and before is None:
        yield Reason("first model", "the first training: there was no model")


def _images(now: Situation, before: Situation | None, limits: Limits) -> Iterator[Reason]:
    if now.model_id is None and before is None:
        return  # the first model needs no number
    new = now.new_images - (before.new_images if before else 0)
    if new >= enough(now, limits):
        since = "the last request" if before else now.model_id
        yield Reason(
            "new images",
            f"{new:,} new training images since {since}; a training starts at {enough(now, limits):,}",
        )


def _removed(now: Situation, before: Situation | None, limits: Limits) -> Iterator[Reason]:
    removed = now.removed_images - (before.removed_images if before else 0)
    if now.model_id is not None and removed >= enough(now, limits):
        yield Reason(
            "removed images",
            f"{removed:,} images that {now.model_id} was trained on are no longer in the splits; "
            f"a training starts at {enough(now, limits):,}",
        )


def enough(now: Situation, limits: Limits) -> int:
    """Return how many new or removed images are enough: so many, and so large a share of those trained on."""
    return max(limits.new_images, round(limits.new_share * now.trained_images))


def _drift(now: Situation, before: Situation | None) -> Iterator[Reason]:
    drifted = [name for name in now.drifted if not before or name not in before.drifted]
    if drifted:
        yield Reason("drift", f"the drift check failed for {', '.join(drifted)}")


def _served_drift(now: Situation, before: Situation | None, limits: Limits) -> Iterator[Reason]:
    if now.served_drift is None:
        return
    corrected = now.corrections - (before.corrections if before else 0)
    batches = [name for name in now.new_batches if not before or name not in before.new_batches]
    new = []
    if corrected >= limits.corrections:
        new.append(f"{corrected:,} new corrections, of at least {limits.corrections:,}")
    if batches:
        new.append(f"new batches: {', '.join(batches)}")
    if new:
        yield Reason("served drift", f"{now.served_drift}; to learn from: {'; '.join(new)}")


def waits_for_labels(now: Situation, limits: Limits) -> bool:
    """Return whether served predictions drift and too little is new to learn from."""
    return now.served_drift is not None and not list(_served_drift(now, None, limits))


def _versions(now: Situation, before: Situation | None) -> Iterator[Reason]:
    for trigger, (version, then) in (("code", now.code), ("configuration", now.configuration)):
        handled = getattr(before, trigger)[0] if before else None
        if then is not None and version not in (then, handled):
            yield Reason(trigger, _changed(now, trigger, version, then))


#: Why a model is stale that another run config, or other production settings, made.
NOT_PRODUCTION = "not trained with the production settings"


def _changed(now: Situation, trigger: str, version: str, then: str) -> str:
    if trigger == "configuration":
        return f"{NOT_PRODUCTION}: {now.differing}" if now.differing else NOT_PRODUCTION
    return f"the training's code changed from {then} to {version}"


def in_words(now: Situation, limits: Limits, *, without_alarm: str = "no drift") -> str:
    """Return the state of every trigger, in words; which settings differ is said of the stale model.

    Args:
        now: the situation.
        limits: how much must be new.
        without_alarm: what to say of served predictions without an alarm, see `served_drift.without_alarm`.
    """
    if now.blocked:
        return f"no training: {'; '.join(now.blocked)}"
    if now.model_id is None:
        return "the first training: there is no model yet"
    changed = [
        NOT_PRODUCTION if name == "configuration" else _changed(now, name, version, then)
        for name, (version, then) in (("code", now.code), ("configuration", now.configuration))
        if then not in (None, version)
    ]
    gone = f"; {now.removed_images:,} that it was trained on are no longer in the splits"
    return (
        f"{now.new_images:,} new training images since {now.model_id} "
        f"(a training starts at {enough(now, limits):,}){gone if now.removed_images else ''}; "
        f"drifted batches with new images: {', '.join(now.drifted) or 'none'}; "
        f"{_served_in_words(now, limits, without_alarm)}; "
        f"{_starting(changed) if changed else 'code and settings unchanged since the last training'}"
    )


def _starting(reasons: list[str]) -> str:
    return f"{'; '.join(reasons)} (a training starts)"


def _served_in_words(now: Situation, limits: Limits, without_alarm: str) -> str:
    if now.served_drift is None:
        return f"served predictions: {without_alarm}"
    new = f"{now.corrections:,} new corrections, a training starts at {limits.corrections:,}"
    return (
        f"served predictions: {now.served_drift} ({new}; new batches: {', '.join(now.new_batches) or 'none'})"
    )
