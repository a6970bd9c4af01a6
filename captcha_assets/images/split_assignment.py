"""The split of every image: train, validation or test, assigned once and never changed.

An image that has a split in the record of assignments (`assignments`) keeps it, and has it again when it
comes back. Only images that the record does not hold are assigned a split, so that each class comes as near
to the ratios as it can. Near-duplicates share a split. The splits are a function of the record and of the
index alone: neither the order in which batches came nor the machine matters. The order among new images is
that of their `image_id`, a hash: as good as random, and the same on every machine.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.images.near_duplicate_subsets import Regroup, regroup_in
from captcha_assets.images.split_record import (
    GO_ON,
    RESTORE,
    AssignmentError,
    AssignmentRecord,
    no_assignments,
)
from captcha_assets.images.table_files import repeated, write_frame

SPLITS = ("train", "validation", "test")

#: Why an image has no split.
CONFLICT = LABEL_CONFLICT
NEAR_DUPLICATE_OF_TWO_SPLITS = "near_duplicate_of_two_splits"
CONTRADICTED = "assigned_to_two_splits"

_TEXT = pa.string()
SPLITS_SCHEMA = pa.schema(
    [
        pa.field("image_id", _TEXT, nullable=False),
        pa.field("label", _TEXT),
        pa.field("group", _TEXT, nullable=False),
        pa.field("split", _TEXT),
        pa.field("exclusion_reason", _TEXT),
        pa.field("batch", _TEXT, nullable=False),
        pa.field("sample_key", pa.float64()),
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "label": "Its class; empty where its sources contradict each other.",
    "group": "Near-duplicate group, by its smallest image_id; a group never lies in two splits.",
    "split": "train, validation or test; empty for an excluded image.",
    "exclusion_reason": f"Why it has no split: {CONFLICT}, {NEAR_DUPLICATE_OF_TWO_SPLITS} or {CONTRADICTED}.",
    "batch": "The batch its pixels are taken from: the one that brought it when its split was assigned.",
    "sample_key": "The images with the smallest keys are a stratified sample; empty where there is no split.",
}
#: The columns of other assets that each column is derived from: (asset, column). Recorded splits are kept.
COLUMN_ORIGINS: dict[str, list[tuple[str, str]]] = {
    "image_id": [("image_index", "image_id")],
    "label": [("image_index", "label")],
    "group": [("image_index", "group")],
    "split": [("image_index", name) for name in ("image_id", "label", "group", "status")],
    "exclusion_reason": [("image_index", name) for name in ("status", "label", "group")],
    "batch": [("image_index", "batch"), ("image_index", "sources")],
    "sample_key": [("image_index", name) for name in ("image_id", "label")],
}


_SPLIT = pl.Enum(SPLITS)

#: Metadata of the splits' file: the files of the record of assignments.
_ASSIGNMENT_FILES = b"split_assignments"


class SplitError(ValueError):
    """Ratios or tables from which no splits can be assigned."""


@dataclass(frozen=True)
class SplitRatios:
    """Share of each split; they sum to 1."""

    train: float = 0.7
    validation: float = 0.2
    test: float = 0.1

    def __post_init__(self) -> None:
        shares = self.shares
        if shares.min() < 0 or abs(shares.sum() - 1) > 1e-9:
            raise SplitError(f"split ratios {shares.tolist()} must be 0 or more and sum to 1")

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The shares in the order of `SPLITS`."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float64)


DEFAULT_RATIOS = SplitRatios()


@dataclass(frozen=True)
class SplitSummary:
    """What the splits hold.

    Attributes:
        train: images in it; so `validation` and `test`.
        excluded: images without a split.
        by_class: class to split to number of images.
        new: images that were assigned a split now.
        removed: images with an assigned split that are not in the index now.
        version: data version of the splits.
    """

    train: int
    validation: int
    test: int
    excluded: int
    by_class: dict[str, dict[str, int]]
    new: int
    removed: int
    version: str


def assign_splits(
    index: pl.DataFrame | pl.LazyFrame,
    record: pl.DataFrame | None,
    ratios: SplitRatios = DEFAULT_RATIOS,
    regroup: Regroup | None = None,
) -> pl.DataFrame:
    """Give every image of the index its split.

    Args:
        index: `image_id`, `label`, `status`, `group`, `batch` and `sources` of every image, in any order.
        record: the assignments so far (`AssignmentRecord.read`), or None.
        ratios: what each class comes as near to as its groups and earlier assignments allow.
        regroup: groups some images without the others; default: as the index groups them.

    Returns:
        The splits (`SPLITS_SCHEMA`), a row per image of the index, in order of `image_id`.
    """
    images = _with_assignments(index.lazy(), no_assignments() if record is None else record)
    # most images are alone in their group: only the others need to know of each other
    shared = repeated(images["group"])
    together = _without_connecting(images.filter(shared), regroup or (lambda some: some["group"]))
    images = pl.concat([_undecided(images.filter(~shared)), _undecided(together)])
    counts = _counts(images)
    new = images.filter("undecided")
    assigned = new.join(_assign_new(new, counts, ratios), on=["label", "group"]).select(
        "image_id", "new_split_number"
    )
    images = (
        images.join(assigned, on="image_id", how="left")
        .with_columns(split_number=pl.coalesce("split_number", "new_split_number"))
        .sort("number")
    )
    images = _with_group_names(images).with_columns(split=pl.col("split_number").cast(_SPLIT).cast(pl.String))
    return _with_sample_keys(images).select(SPLITS_SCHEMA.names)


def _with_group_names(images: pl.DataFrame) -> pl.DataFrame:
    """Name each group in each split after its smallest image; the images are in order of `image_id`."""
    shared = images.select("number", "image_id", "group", "split_number").filter(repeated(images["group"]))
    name = pl.col("image_id").first().over("group", "split_number")
    named = shared.select("number", name=name)
    return (
        images.join(named, on="number", how="left", maintain_order="left")
        .with_columns(group=pl.coalesce("name", "image_id"))
        .drop("name")
    )


def _with_assignments(index: pl.LazyFrame, record: pl.DataFrame) -> pl.DataFrame:
    """Return the index with what the record says of each image, and its `number`.

    `split_number` is its split's number; an image with contradicting labels or assignments has none.
    """
    images = index.select("image_id", "label", "group", "status", table="batch").collect()
    if not images["image_id"].is_sorted():
        images = images.sort("image_id")
    known = record.rename({"label": "label_then", "batch": "batch_then"})
    images = images.with_row_index("number").join(known, on="image_id", how="left", maintain_order="left")
    usable, contradicted = pl.col("status") == USABLE, pl.col("contradicted").fill_null(value=False)
    return images.join(
        _brought_then(index, images), on="image_id", how="left", maintain_order="left"
    ).with_columns(
        split_number=pl.when(usable & ~contradicted).then(pl.col("split").cast(_SPLIT).to_physical()),
        exclusion_reason=pl.when(~usable)
        .then(pl.lit(CONFLICT))
        .when(contradicted)
        .then(pl.lit(CONTRADICTED)),
        batch=pl.coalesce("batch_there", "table"),
    )


def _brought_then(index: pl.LazyFrame, images: pl.DataFrame) -> pl.DataFrame:
    """Return `image_id`, `batch_there` of images that the index takes from another batch than then.

    Another batch with the same image, whatever its name, is no reason to train again: the batch that brought
    the image when its split was assigned stays named as long as that batch is there.
    """
    renamed = images.filter(pl.col("batch_then") != pl.col("table"))
    renamed = renamed.select("image_id", batch_there="batch_then")
    if renamed.is_empty():
        return renamed
    batches = pl.col("sources").list.eval(pl.element().struct.field("batch"))
    return (
        index.select("image_id", "sources")
        .join(renamed.lazy(), on="image_id")
        .filter(batches.list.contains(pl.col("batch_there")))
        .select("image_id", "batch_there")
        .collect()
    )


def _without_connecting(images: pl.DataFrame, regroup: Regroup) -> pl.DataFrame:
    """Exclude the images that connect two splits; a new image of a group takes the group's split."""
    images = _exclude(images, _excluded_later(images, regroup))
    first, last = pl.col("split_number").min().over("group"), pl.col("split_number").max().over("group")
    new = pl.col("split_number").is_null() & pl.col("exclusion_reason").is_null()
    images = _exclude(images, images.filter(new & (first != last))["image_id"])
    return images.with_columns(
        split_number=pl.when(pl.col("exclusion_reason").is_null()).then(pl.coalesce("split_number", first))
    )


def _excluded_later(images: pl.DataFrame, regroup: Regroup) -> pl.Series:
    """Return the images with an assigned split that are near-duplicates of one with another split.

    This happens where they never were in the index together, under these labels: one was removed when the
    other came, or was relabelled. The one assigned first keeps its split. A relabelled image is excluded
    first: it is new to its class.
    """
    in_two_splits = pl.col("split_number").min().over("group") != pl.col("split_number").max().over("group")
    assigned = images.filter(in_two_splits & pl.col("split_number").is_not_null())
    if assigned.is_empty():
        return assigned["image_id"]
    # those that only an image without a split connects are not each other's near-duplicates
    order = [pl.col("label") != pl.col("label_then"), pl.col("round"), pl.col("image_id")]
    ranked = assigned.with_columns(part=regroup(assigned)).sort(order)
    return ranked.filter(pl.col("split_number") != pl.col("split_number").first().over("part"))["image_id"]


def _exclude(images: pl.DataFrame, excluded: pl.Series) -> pl.DataFrame:
    connecting = pl.col("image_id").is_in(excluded.implode())
    return images.with_columns(
        exclusion_reason=pl.when(connecting)
        .then(pl.lit(NEAR_DUPLICATE_OF_TWO_SPLITS))
        .otherwise("exclusion_reason"),
        split_number=pl.when(~connecting).then("split_number"),
    )


def _undecided(images: pl.DataFrame) -> pl.DataFrame:
    return images.with_columns(
        undecided=pl.col("split_number").is_null() & pl.col("exclusion_reason").is_null()
    )


def _counts(images: pl.DataFrame) -> dict[str, npt.NDArray[np.int64]]:
    """Return how many images of each class each split holds already."""
    counts = {label: np.zeros(len(SPLITS), np.int64) for label in images["label"].drop_nulls().unique()}
    for label, split, count in (
        images.drop_nulls("split_number").group_by("label", "split_number").len().iter_rows()
    ):
        counts[label][split] = count
    return counts


def _assign_new(
    images: pl.DataFrame, counts: dict[str, npt.NDArray[np.int64]], ratios: SplitRatios
) -> pl.DataFrame:
    """Return `label`, `group`, `new_split_number` of the groups of these images.

    Large groups are assigned first: the small ones even out what they leave uneven.
    """
    groups = (
        images.group_by("label", "group")
        .agg(size=pl.len())
        .sort("label", "size", "group", descending=[False, True, False])
    )
    final = dict(images.group_by("label").len().iter_rows())
    targets = {label: _targets(counts[label], new, ratios) for label, new in final.items()}
    assigned = []
    for (label, size), same in groups.group_by("label", "size", maintain_order=True):
        count = counts[str(label)]
        share = _divide(len(same), (targets[str(label)] - count) / int(str(size)))
        count += share * int(str(size))
        numbers = pl.Series(np.repeat(np.arange(len(SPLITS)), share), dtype=pl.UInt8)
        assigned.append(same.select("label", "group", new_split_number=numbers))
    nothing = groups.select("label", "group", new_split_number=pl.lit(None, pl.UInt8)).clear()
    return pl.concat([nothing, *assigned])


def _targets(counts: npt.NDArray[np.int64], new: int, ratios: SplitRatios) -> npt.NDArray[np.float64]:
    """Return how many images each split should hold after `new` more, given that none can leave."""
    shares = ratios.shares
    open_splits = np.ones(len(SPLITS), bool)
    while True:
        total = counts.sum() + new - counts[~open_splits].sum()
        weights = np.where(open_splits, shares, 0)
        targets = np.where(open_splits, total * weights / max(weights.sum(), 1e-12), counts)
        overfull = open_splits & (counts > targets)
        if not overfull.any():
            return targets
        open_splits &= ~overfull


def _divide(number: int, wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Divide `number` things as near to `wanted` as whole numbers allow (largest remainder)."""
    wanted = np.maximum(wanted, 0)
    if wanted.sum() == 0:
        wanted[0] = 1.0
    exact = wanted * (number / wanted.sum())
    share = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - share), kind="stable")
    share[order[: number - share.sum()]] += 1
    return share


def _with_sample_keys(images: pl.DataFrame) -> pl.DataFrame:
    """Spread the images of each split and class evenly over [0, 1), in order of `image_id`."""
    stratum = ["split_number", "label"]
    key = (pl.int_range(pl.len()).over(stratum) + 0.5) / pl.len().over(stratum)
    return images.with_columns(sample_key=pl.when(pl.col("split_number").is_not_null()).then(key))


def take_sample(splits: pl.DataFrame, size: int | None) -> pl.DataFrame:
    """Return the images that have a split, or a stratified sample of `size` of them; larger ones contain it.

    The rows stay in their order.
    """
    assigned = splits.filter(pl.col("split").is_not_null())
    if size is None or size >= len(assigned):
        return assigned
    chosen = assigned.select("image_id", "sample_key").sort("sample_key", "image_id").head(size)
    return assigned.join(chosen, on="image_id", how="semi", maintain_order="left")


def lacking_images(splits: AnyPath) -> str | None:
    """Return why no model can be trained on splits, one of which is empty; None where one can."""
    found = pl.scan_parquet(str(splits)).select(pl.col("split").drop_nulls().unique()).collect().to_series()
    empty = [split for split in ("train", "validation") if split not in found]
    return f"no image in {' or '.join(empty)}: add a batch (captcha-assets batch add)" if empty else None


def require_images(splits: AnyPath) -> None:
    """Raise an error for splits that no model can be trained on.

    Raises:
        SplitError: there is nothing to train on.
    """
    if why := lacking_images(splits):
        raise SplitError(f"there is nothing to train on, {why}")


def update_splits(
    index: AnyPath,
    target: AnyPath,
    record: AssignmentRecord,
    spec: DatasetSpec,
    table_of: Callable[[str], AnyPath] | None = None,
    *,
    ratios: SplitRatios = DEFAULT_RATIOS,
    accept_loss: bool = False,
) -> SplitSummary:
    """Assign a split to the images of an index that have none, record it, and write the splits.

    New assignments are in the record before the splits are written, both complete or not at all. Splits that
    a version without a record wrote become its first file.

    Args:
        index: the image index.
        target: where the splits lie and go.
        record: the assignments.
        spec: what the images look like.
        table_of: gives the image table of a batch; without it all of a group counts as near-duplicates.
        ratios: share of each split.
        accept_loss: where assignments are lost, continue with what the record and `target` still hold.

    Raises:
        AssignmentError: assignments are lost or damaged.
    """
    with record.locked():
        known = _known_assignments(target, record, accept_loss=accept_loss)
        regroup = regroup_in(table_of, spec) if table_of else None
        splits = assign_splits(pl.scan_parquet(str(index)), known, ratios, regroup)
        new = splits.drop_nulls("split").join(known, on="image_id", how="anti")
        record.append(new.select("image_id", "split", "label", "batch"))
        metadata = {_ASSIGNMENT_FILES: json.dumps(record.files())}
        repetitive = ["label", "split", "exclusion_reason", "batch"]
        version = write_frame(splits, SPLITS_SCHEMA, target, repetitive, metadata)
    return _summarize(splits, known, len(new), version, spec)


def files_named_by(splits: AnyPath) -> list[str] | None:
    """Return the files of the record from which splits were computed.

    Returns:
        None where there are no splits that can be read, or a version without a record wrote them.
    """
    if not splits.is_file():
        return None
    try:
        with splits.open("rb") as file:
            metadata = pq.read_schema(file).metadata or {}
        return json.loads(metadata[_ASSIGNMENT_FILES]) if _ASSIGNMENT_FILES in metadata else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def _known_assignments(target: AnyPath, record: AssignmentRecord, *, accept_loss: bool) -> pl.DataFrame:
    """Return the record, to which splits of a version without one are added first."""
    named = files_named_by(target)
    if named is not None and not accept_loss:
        record.require(named, str(target))
    known = record.read()
    if target.exists() and (named is None or accept_loss):
        earlier = _assigned_before(target)
        if earlier is None and known.is_empty() and not accept_loss:
            raise AssignmentError(
                f"split assignments are lost: {record.folder} holds none, and {target} is damaged. "
                f"No image is assigned a new split: {RESTORE}, {GO_ON}"
            )
        if earlier is not None:
            record.append(earlier.join(known, on="image_id", how="anti"))
            return record.read()
    return known


def _assigned_before(splits: AnyPath) -> pl.DataFrame | None:
    """Return the assignments that splits hold, None where they are damaged."""
    columns = ["image_id", "split", "label", "batch"]
    try:
        with fetched(splits) as local:
            return pl.read_parquet(local, columns=columns).drop_nulls(["split", "label"])
    except (pl.exceptions.PolarsError, OSError):
        return None


def _summarize(
    splits: pl.DataFrame, known: pl.DataFrame, new: int, version: str, spec: DatasetSpec
) -> SplitSummary:
    assigned = splits.drop_nulls("split")
    labels = set(splits["label"].unique())
    by_class = {name: dict.fromkeys(SPLITS, 0) for name in spec.classes if name in labels}
    for label, split, number in assigned.group_by("label", "split").len().iter_rows():
        by_class[label][split] = number
    return SplitSummary(
        **{name: sum(counts[name] for counts in by_class.values()) for name in SPLITS},
        excluded=len(splits) - len(assigned),
        by_class=by_class,
        new=new,
        removed=len(known.join(splits, on="image_id", how="anti")),
        version=version,
    )
