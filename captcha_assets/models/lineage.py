"""Lineage: what a model, image or batch was derived from, and what it was used for.

Everything is read from records among the artifacts; only hashes are computed.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images import table_parts
from captcha_assets.images.content_hash import content_hash
from captcha_assets.images.split_assignment import SPLITS
from captcha_assets.models import registry, training_provenance
from captcha_assets.models.overview import read_metrics
from captcha_assets.models.trained_images import NOT_RECORDED, Trained, trained, trained_models
from captcha_assets.models.training_provenance import Origin, trained_batches
from captcha_assets.paths import Paths
from captcha_assets.sources import batch_registration, correction_batches

#: At most so many near-duplicates of an image are named.
_MOST_NEIGHBOURS = 20
#: At most so many images of one file name are named.
_MOST_NAMESAKES = 5


class LineageError(ValueError):
    """No or more than one thing has this name; the message lists the known ones."""


@dataclass(frozen=True)
class Node:
    """One thing: what kind it is, its name, what is known of it, and what belongs below it."""

    kind: str
    id: str
    facts: dict[str, Any] = field(default_factory=dict)
    nodes: tuple["Node", ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON object: kind, id, facts, nodes."""
        nodes = [node.to_dict() for node in self.nodes]
        return {"kind": self.kind, "id": self.id, "facts": self.facts, "nodes": nodes}


@dataclass(frozen=True)
class Lineage:
    """A model, batch, image or prediction, what it was derived from, and what it was used for."""

    what: Node
    derived_from: tuple[Node, ...]
    used_for: tuple[Node, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON object: what, derived_from, used_for."""
        return {
            "what": self.what.to_dict(),
            "derived_from": [node.to_dict() for node in self.derived_from],
            "used_for": [node.to_dict() for node in self.used_for],
        }


#: Looks a name up; None where there is none of this kind.
Finder = Callable[[Paths, str], Lineage | None]


def trace(paths: Paths, what: str, *finders: Finder) -> Lineage:
    """Trace a model (an id, "champion" or "candidate"), a batch, or an image (an id, or a file name).

    Args:
        paths: where things are kept.
        what: its name; of a model's or an image's id, as many characters as make it unique. A file is named
            as its archive does, with or without the folders before it.
        finders: look up other kinds of names, in this order.

    Raises:
        LineageError: nothing or more than one thing has this name, or it was removed.
    """
    for find in (_model, _batch, _image, *finders, _file):
        found = find(paths, what)
        if found is not None:
            return found
    raise LineageError(_unknown(paths, what))


def _unknown(paths: Paths, what: str) -> str:
    trained_on = [one.model_id for one in trained_models(paths) if what in _batches(one)]
    if trained_on:
        return f"the batch {what} was removed; models trained on it: {', '.join(trained_on)}"
    models = ", ".join(registry.list_models(paths.models)) or "none"
    batches = ", ".join(batch_registration.known_batches(paths)) or "none"
    return (
        f"{what!r} is no model ({models}), no batch ({batches}), no image and no served prediction: "
        "an image's id is 32 of 0-9 and a-f, or as many of them as make it unique; a file is named as in "
        "its archive"
    )


def _one(what: str, ids: list[str], kind: str) -> str | None:
    """Return the one id that begins with `what`, or None."""
    found = ids if what not in ids else [what]
    found = [one for one in found if one.startswith(what)]
    if len(found) > 1:
        some = ", ".join(found[:3])
        raise LineageError(f"{what!r} begins {len(found)} {kind}: {some}, ...; give more of it")
    return found[0] if found else None


# --- a model


def _model(paths: Paths, what: str) -> Lineage | None:
    pointers = {"champion": registry.champion, "candidate": registry.candidate}
    if what in pointers:
        pointer = pointers[what](paths.models)
        if pointer is None:
            raise LineageError(f"there is no {what} yet; train one with: captcha-assets update")
        if pointer.model_id not in registry.list_models(paths.models):
            raise LineageError(
                f"the {what} {pointer.model_id} is missing: restore {paths.models / pointer.model_id}"
            )
        what = pointer.model_id
    ids = registry.list_models(paths.models)
    model_id = _one(what, ids, "models") if "-" in what else None  # no batch hides behind a prefix
    if model_id is None or (what != model_id and what in batch_registration.known_batches(paths)):
        return None
    model = trained(paths, model_id)
    return Lineage(
        Node("model", model_id, {"role": _role(paths, model_id)}),
        (_training(model), _splits_of(paths, model), *_data(model)),
        tuple(_uses(paths, model_id)),
    )


def _role(paths: Paths, model_id: str) -> str:
    champion, candidate = registry.champion(paths.models), registry.candidate(paths.models)
    roles = {"champion": champion, "candidate": candidate}
    held = [role for role, pointer in roles.items() if pointer and pointer.model_id == model_id]
    return held[0] if held else "none"  # of a champion, that it was trained last as well says nothing more


def _training(model: Trained) -> Node:
    config, recorded = model.config, model.config.provenance
    commit = recorded.get("commit")
    facts = {
        "code_version": config.code_version,
        "git_commit": f"{commit} (modified)" if commit and recorded.get("commit_modified") else commit,
        "seed": config.seed,
        "settings": config.settings,
        "device": recorded.get("device"),
        "threads": recorded.get("threads"),
        "packages": config.packages,
    }
    return Node("training run", recorded.get("run_id") or "unknown", facts)


def _splits_of(paths: Paths, model: Trained) -> Node:
    counts = model.counts()
    facts = {"images": counts if counts is not None else NOT_RECORDED}
    return Node("splits", model.config.splits_version, facts, tuple(_origins(paths, model)))


def _batches(model: Trained) -> list[str]:
    return trained_batches(model.config.provenance)


def _origins(paths: Paths, model: Trained) -> Iterator[Node]:
    recorded = {origin.batch: origin for origin in training_provenance.origins(model.config.provenance)}
    known = batch_registration.known_batches(paths)
    for batch in _batches(model):
        now = {} if batch in known else {"today": "removed"}
        if batch in recorded:
            yield Node("batch", batch, _facts(recorded[batch]) | now)
        else:
            yield Node("batch", batch, {"recorded": "its name alone"} | now)


def _facts(origin: Origin) -> dict[str, Any]:
    kaggle = {"kaggle_dataset": origin.dataset, "kaggle_version": origin.kaggle_version}
    return {
        "source": origin.source,
        **(kaggle if origin.dataset else {}),
        "archive_sha256": origin.sha256,
        "archive_md5": origin.md5,
        "image_table": origin.image_table,
    }


def _data(model: Trained) -> Iterator[Node]:
    if model.config.provenance.get("dvc_md5"):
        yield Node("DVC's record of data/", model.config.provenance["dvc_md5"])


def _uses(paths: Paths, model_id: str) -> Iterator[Node]:
    metrics = read_metrics(paths, model_id)
    if metrics:
        facts = {
            "accuracy": metrics["accuracy"],
            "interval_95": [metrics["accuracy_low"], metrics["accuracy_high"]],
            "test_images": metrics["n"],
            "splits": metrics["splits_version"],
        }
        yield Node("evaluation", str(paths.evaluation(model_id)), facts)
    if paths.onnx_model(model_id).exists():
        yield Node("onnx_model", str(paths.onnx_model(model_id)))
    if paths.quantized_model(model_id).exists():
        yield Node("quantized_model", str(paths.quantized_model(model_id)))
    for entry in registry.history(paths.models):
        if entry.model_id == model_id:
            by = {"by": entry.by, "action": entry.action, "because": entry.reason}
            yield Node("champion", f"since {entry.since}", by | {"instead_of": entry.instead_of})


# --- a batch


def _batch(paths: Paths, what: str) -> Lineage | None:
    if what not in batch_registration.known_batches(paths):
        return None
    known, path = batch_registration.registration(paths, what), batch_registration.archive_path(paths, what)
    table = paths.image_table(what)
    facts = {"archive": str(path) if path.exists() else "not fetched"}
    if table.exists():
        source = _facts(training_provenance.origin(paths, what))
        del source["image_table"]
    else:
        source = {"source": str(known.source) if known else batch_registration.FOUND}
    used = (*_tables(paths, what), *_split_counts(paths, what), *_models_of_batch(paths, what))
    record = training_provenance.dvc_md5(paths)
    data = [Node("DVC's record of data/, today", record)] if record else []
    return Lineage(Node("batch", what, facts), (Node("source", source.pop("source"), source), *data), used)


def _tables(paths: Paths, batch: str) -> Iterator[Node]:
    tables = {"image_table": paths.image_table(batch), "rejected_images": paths.rejected_images(batch)}
    for name, path in tables.items():
        if path.exists():
            yield Node(name, content_hash(path), {"rows": _rows(path)})


def _rows(path: AnyPath) -> int:
    return pl.scan_parquet(str(path)).select(pl.len()).collect().item()


def _ids(paths: Paths, batch: str) -> pl.Series:
    return pl.read_parquet(str(paths.image_table(batch)), columns=["image_id"])["image_id"].unique()


def _split_counts(paths: Paths, batch: str) -> Iterator[Node]:
    if not (paths.image_table(batch).exists() and table_parts.exists(paths.splits)):
        return
    here = pl.col("image_id").is_in(_ids(paths, batch).implode())
    rows = table_parts.scan(paths.splits).select("image_id", "split", "batch").filter(here).collect()
    found = dict(rows.group_by("split").len().iter_rows())
    facts = {split: int(found.get(split, 0)) for split in SPLITS}
    first = int((rows["batch"] == batch).sum())
    facts |= {"excluded": int(found.get(None, 0)), "first_brought_by_it": first}
    yield Node("splits", table_parts.version_of(paths.splits), facts)


def _models_of_batch(paths: Paths, batch: str) -> Iterator[Node]:
    ids = _ids(paths, batch) if paths.image_table(batch).exists() else None
    for model in trained_models(paths):
        counts = model.counts(ids) if ids is not None else None
        if batch in _batches(model) or (counts and any(counts.values())):
            images = counts if counts is not None else NOT_RECORDED
            facts = {"role": _role(paths, model.model_id), "images_of_it": images}
            yield Node("model", model.model_id, facts)


# --- an image


def _image(paths: Paths, what: str) -> Lineage | None:
    if re.fullmatch(r"[0-9a-f]{1,32}", what) is None or not table_parts.exists(paths.image_index):
        return None
    index = table_parts.scan(paths.image_index)
    wanted = index.filter(pl.col("image_id").str.starts_with(what)).collect()
    image_id = _one(what, wanted["image_id"].to_list(), "images")
    if image_id is None:
        return None
    return _lineage_of(paths, wanted.row(by_predicate=pl.col("image_id") == image_id, named=True))


def _file(paths: Paths, what: str) -> Lineage | None:
    """Trace the image of a file of an archive, named as `member` of the image table or by its last part."""
    if not table_parts.exists(paths.image_index):
        return None
    member = pl.element().struct.field("member")
    named = (member == what) | member.str.ends_with(f"/{what}")
    found = (
        table_parts.scan(paths.image_index).filter(pl.col("sources").list.eval(named).list.any()).collect()
    )
    if len(found) > 1:
        raise LineageError(_namesakes(what, found))
    return _lineage_of(paths, found.row(0, named=True)) if len(found) else None


def _namesakes(what: str, images: pl.DataFrame) -> str:
    """Return that several images have a file of this name, and the ids of some."""
    some = [
        f"{row['image_id'][:12]} ({', '.join(_files(row['sources'], what))})"
        for row in images.sort("image_id").head(_MOST_NAMESAKES).iter_rows(named=True)
    ]
    more = ["..."] if len(images) > _MOST_NAMESAKES else []
    return f"{len(images):,} images have a file {what!r}: {', '.join([*some, *more])}; give the id of one"


def _files(sources: list[dict[str, Any]], what: str) -> list[str]:
    named = [one for one in sources if f"/{one['member']}".endswith(f"/{what}")]
    return [f"{one['member']} of batch {one['batch']}" for one in named]


def _lineage_of(paths: Paths, image: dict[str, Any]) -> Lineage:
    """Return the lineage of a row of the index."""
    image_id, index = image["image_id"], table_parts.scan(paths.image_index)
    facts = {"label": image["label"], "status": image["status"], **split_of_image(paths, image_id)}
    others = index.filter(pl.col("group") == image["group"], pl.col("image_id") != image_id)
    return Lineage(
        Node("image", image_id, facts),
        (*_sources(paths, image["sources"]), *_neighbours(image["group"], others.collect())),
        tuple(models_of_image(paths, image_id)),
    )


def split_of_image(paths: Paths, image_id: str) -> dict[str, Any]:
    """Return the split of an image, or why it has none."""
    if not table_parts.exists(paths.splits):
        return {"split": None}
    scan = table_parts.scan(paths.splits).filter(pl.col("image_id") == image_id)
    # splits of an earlier version of the code say no reason
    rows = scan.select(pl.col("^(split|exclusion_reason)$")).collect().to_dicts()
    return rows[0] if rows else {"split": None}


def _sources(paths: Paths, sources: list[dict[str, Any]]) -> Iterator[Node]:
    for source in sources:
        known = batch_registration.registration(paths, source["batch"])
        origin: dict[str, Any] = (
            {"source": str(known.source), "archive_sha256": known.sha256} if known else {}
        )
        if known and known.dataset:
            origin |= {"kaggle_dataset": known.dataset, "kaggle_version": known.kaggle_version}
        facts = {"member": source["member"], "label_there": source["label"]}
        predictions = _corrected_predictions(paths, source["batch"], source["member"])
        yield Node("batch", source["batch"], facts | origin, tuple(predictions))


def _corrected_predictions(paths: Paths, batch: str, member: str) -> Iterator[Node]:
    """Yield the served predictions whose corrections brought an image."""
    day = correction_batches.day_of(batch)
    if day is None or not paths.prediction_log(day).exists():
        return
    rows = pl.scan_parquet(str(paths.prediction_log(day))).filter(
        pl.col("image_hash") == correction_batches.image_hash_of(member),
        pl.col("correction_id").is_not_null(),
    )
    columns = ("inference_id", "time", "label", "score", "model_version", "corrected_label", "annotator")
    for row in rows.select(columns).sort("time").collect().iter_rows(named=True):
        facts = {**row, "time": row["time"].isoformat(timespec="seconds")}
        yield Node("prediction", facts.pop("inference_id"), facts)


def _neighbours(group: str, others: pl.DataFrame) -> Iterator[Node]:
    ids = others["image_id"].sort().to_list()
    if ids:
        more = {"and_more": len(ids) - _MOST_NEIGHBOURS} if len(ids) > _MOST_NEIGHBOURS else {}
        yield Node("near-duplicate group", group, {"others": ids[:_MOST_NEIGHBOURS], **more})


def models_of_image(paths: Paths, image_id: str) -> Iterator[Node]:
    """Yield every model, with what an image is to it."""
    for model in trained_models(paths):
        facts = {"role": _role(paths, model.model_id), "this_image": model.saw(image_id)}
        yield Node("model", model.model_id, facts)
