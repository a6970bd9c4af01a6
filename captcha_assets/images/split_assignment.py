"""The split of every image: train, validation or test, assigned once and never changed.

An image that has a split in the record of assignments (`assignments`) keeps it, and has it again when it
comes back. Only images that the record does not hold are assigned a split, so that each class comes as near
to the ratios as it can. Near-duplicates share a split. The splits are a function of the record and of the
index alone: neither the order in which batches came nor the machine matters. The order among new images is
that of their `image_id`, a hash: as good as random, and the same on every machine.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, raise_if_passing, remove
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import table_parts
from captcha_assets.images.index import INDEX_SCHEMA, LABEL_CONFLICT, USABLE
from captcha_assets.images.near_duplicate_subsets import Regroup, regroup_in
from captcha_assets.images.split_record import (
    GO_ON,
    AssignmentError,
    AssignmentRecord,
    no_assignments,
)
from captcha_assets.images.table_files import shares_group
from captcha_assets.images.table_parts import DamagedTableError, Manifest, Part, of_earlier_version

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
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "label": "Its class; empty where its sources contradict each other.",
    "group": "Near-duplicate group, by its smallest image_id; a group never lies in two splits.",
    "split": "train, validation or test; empty for an excluded image.",
    "exclusion_reason": f"Why it has no split: {CONFLICT}, {NEAR_DUPLICATE_OF_TWO_SPLITS} or {CONTRADICTED}.",
    "batch": "The batch its pixels are taken from: the one that brought it when its split was assigned.",
}
#: The columns of other assets that each column is derived from: (asset, column). Recorded splits are kept.
COLUMN_ORIGINS: dict[str, list[tuple[str, str]]] = {
    "image_id": [("image_index", "image_id")],
    "label": [("image_index", "label")],
    "group": [("image_index", "group")],
    "split": [("image_index", name) for name in ("image_id", "label", "group", "status")],
    "exclusion_reason": [("image_index", name) for name in ("status", "label", "group")],
    "batch": [("image_index", "batch"), ("image_index", "sources")],
}

_SPLIT = pl.Enum(SPLITS)
_REPETITIVE = ["label", "split", "exclusion_reason", "batch"]

#: How many images of each class each split holds: class to three numbers.
Counts = dict[str, npt.NDArray[np.int64]]

#: Where versions before this one kept the names of the files of the record: metadata of the splits' file.
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
    return _assign(index, no_assignments() if record is None else record, ratios, regroup)[0]


def _assign(
    index: pl.DataFrame | pl.LazyFrame,
    record: pl.DataFrame,
    ratios: SplitRatios,
    regroup: Regroup | None,
    others: Counts | None = None,
) -> tuple[pl.DataFrame, pl.Series]:
    """Return the splits, and of each row whether the record holds its image.

    `others` counts images that are not in this index, whole groups of them, and count for the ratios.
    """
    images = _with_assignments(index.lazy(), record)
    is_known = images["round"].is_not_null()
    # most images are alone in their group: only the others need to know of each other
    shared = shares_group(images)
    together = _without_connecting(images.filter(shared), regroup or (lambda some: some["group"]))
    images = _put_back(images.drop("label_then", "batch_then", "round", "table"), shared, together)
    assigned = _assign_new(images, ratios, others or {})
    images = images.with_columns(split_number=pl.coalesce("split_number", assigned))
    images = _with_group_names(images, shared)
    images = images.with_columns(split=pl.col("split_number").cast(_SPLIT).cast(pl.String))
    return images.select(SPLITS_SCHEMA.names), is_known


def _put_back(images: pl.DataFrame, shared: pl.Series, together: pl.DataFrame) -> pl.DataFrame:
    """Return all images with what was found of those that share a group, and `first` of each group.

    `first` is the number of the group's first image, by which the group is known from here on.
    """
    found = together.select(
        "number",
        first_together=pl.col("number").min().over("group"),
        split_together="split_number",
        reason_together="exclusion_reason",
    )
    joined = images.join(found, on="number", how="left", maintain_order="left")
    return joined.select(
        *("number", "image_id", "label", "group", "batch"),
        first=pl.coalesce("first_together", "number"),
        split_number=pl.when(shared).then("split_together").otherwise("split_number"),
        exclusion_reason=pl.when(shared).then("reason_together").otherwise("exclusion_reason"),
    )


def _with_group_names(images: pl.DataFrame, shared: pl.Series) -> pl.DataFrame:
    """Name each group in each split after its smallest image; the images are in order of `image_id`."""
    together = images.select("number", "image_id", "first", "split_number").filter(shared)
    name = pl.col("image_id").first().over("first", "split_number")
    named = together.select("number", name=name)
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
    brought = _brought_then(index, images)
    images = (
        images.with_columns(batch_there=pl.lit(None, pl.String))  # nearly always none: a join costs memory
        if brought.is_empty()
        else images.join(brought, on="image_id", how="left", maintain_order="left")
    )
    return images.with_columns(
        split_number=pl.when(usable & ~contradicted).then(pl.col("split").cast(_SPLIT).to_physical()),
        exclusion_reason=pl.when(~usable)
        .then(pl.lit(CONFLICT))
        .when(contradicted)
        .then(pl.lit(CONTRADICTED)),
        batch=pl.coalesce("batch_there", "table"),
    ).drop("batch_there", "split", "contradicted", "status")


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


def _counts(images: pl.DataFrame, others: Counts) -> Counts:
    """Return how many images of each class each split holds already."""
    counts = {label: np.zeros(len(SPLITS), np.int64) for label in images["label"].drop_nulls().unique()}
    for label, split, count in (
        images.drop_nulls("split_number").group_by("label", "split_number").len().iter_rows()
    ):
        counts[label][split] = count
    return {label: count + others.get(label, 0) for label, count in counts.items()}


def _assign_new(images: pl.DataFrame, ratios: SplitRatios, others: Counts) -> pl.Series:
    """Return the number of the split of each image that has neither one nor a reason; null for the others."""
    counts = _counts(images, others)
    undecided = pl.col("split_number").is_null() & pl.col("exclusion_reason").is_null()
    result = np.full(len(images), len(SPLITS), np.uint8)
    for (label,), new in images.filter(undecided)[["number", "label", "first"]].group_by("label"):
        result[new["number"].to_numpy()] = _of_class(new["first"].to_numpy(), counts[str(label)], ratios)
    number = pl.col("number")
    return pl.DataFrame({"number": result}).select(pl.when(number < len(SPLITS)).then(number)).to_series()


def _of_class(
    groups: npt.NDArray[np.uint32], count: npt.NDArray[np.int64], ratios: SplitRatios
) -> npt.NDArray[np.uint8]:
    """Return the split of each new image of a class.

    Large groups are assigned first: the small ones even out what they leave uneven.

    Args:
        groups: of each image, as a number.
        count: how many images of the class each split holds already.
        ratios: what the class comes near to.
    """
    names, which, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    targets = _targets(count, len(groups), ratios)
    splits = np.empty(len(names), np.uint8)
    for size in np.unique(sizes)[::-1]:
        same = np.flatnonzero(sizes == size)
        share = _divide(len(same), (targets - count) / size)
        count = count + share * size
        splits[same] = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), share)
    return splits[which]


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


def with_sample_keys(splits: pl.DataFrame) -> pl.DataFrame:
    """Add `sample_key`: the images with the smallest keys are a stratified sample.

    Those of each split and class are spread evenly over [0, 1), in order of `image_id`; of an image without a
    split the key is empty. `reader.sample_keys` is the same without Polars.
    """
    stratum = ["split", "label"]
    place = pl.col("image_id").rank("ordinal").over(stratum) - 0.5
    return splits.with_columns(
        sample_key=pl.when(pl.col("split").is_not_null()).then(place / pl.len().over(stratum))
    )


def take_sample(splits: pl.DataFrame, size: int | None) -> pl.DataFrame:
    """Return the images that have a split, or a stratified sample of `size` of them; larger ones contain it.

    The rows stay in their order.
    """
    assigned = splits.filter(pl.col("split").is_not_null())
    if size is None or size >= len(assigned):
        return assigned
    keys = with_sample_keys(assigned).select("image_id", "sample_key")
    chosen = keys.sort("sample_key", "image_id").head(size)
    return assigned.join(chosen, on="image_id", how="semi", maintain_order="left")


def lacking_images(splits: AnyPath) -> str | None:
    """Return why no model can be trained on splits, one of which is empty; None where one can."""
    found = table_parts.scan(splits).select(pl.col("split").drop_nulls().unique()).collect().to_series()
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
        target: folder of the splits (`table_parts`). Where splits lie there, only images are computed whose
            group has changed in the index since; the result is the same.
        record: the assignments.
        spec: what the images look like.
        table_of: gives the image table of a batch; without it all of a group counts as near-duplicates.
        ratios: share of each split.
        accept_loss: where assignments are lost, continue with what the record and `target` still hold.

    Raises:
        AssignmentError: assignments are lost or damaged.
    """
    with record.locked(), ExitStack() as stack:
        known = _known_assignments(target, record, accept_loss=accept_loss)
        writer, before = stack.enter_context(
            table_parts.writing(target, SPLITS_SCHEMA, _REPETITIVE, _counted)
        )
        regroup = regroup_in(table_of, spec) if table_of else None
        state = _State(record.files(), _files(index), list(map(float, ratios.shares)))
        changed = None if accept_loss or before is None else _changed(before, state, index)
        if before is None or changed is None:
            splits, is_known = _assign(table_parts.scan(index), known, ratios, regroup)
            new = _append_new(record, splits, is_known)
            writer.write_all(splits)
        else:
            old = _rows_of(before, changed)
            others = _without(_count_splits(before.parts.values()), _count_splits([_part_of(old)]))
            splits, is_known = _assign(changed.index, known, ratios, regroup, others)
            new = _append_new(record, splits, is_known)
            writer.replace(before, old, splits)
        after = writer.commit(vars(replace(state, split_assignments=record.files())))
    remove(of_earlier_version(target))
    recorded = len(known) + new
    return _summarize(after, new, recorded - _recorded_rows(after, known), spec)


@dataclass(frozen=True)
class _State:
    """What splits were computed from, as their manifest records it.

    Attributes:
        split_assignments: the files of the record, those of this very computation among them.
        index: the file of each part of the index.
        ratios: the share of each split.
    """

    split_assignments: list[str]
    index: dict[str, str]
    ratios: list[float]


def _files(index: AnyPath) -> dict[str, str]:
    """Return the file of each part of an index; nothing where it is one file."""
    found = table_parts.find_manifest(index, INDEX_SCHEMA)
    return {name: part.file for name, part in found.parts.items()} if found else {}


@dataclass(frozen=True)
class _Changed:
    """What is not in the index as it was when the splits were computed.

    Attributes:
        index: the rows of the index now of every group that has changed.
        gone: the images that are not in it any more.
    """

    index: pl.DataFrame
    gone: pl.Series


def _changed(before: Manifest, state: _State, index: AnyPath) -> _Changed | None:
    """Return what has changed of the index since the splits before; None where that is not known."""
    then = _State(**before.about)
    if replace(then, index={}) != replace(state, index={}) or not then.index or not state.index:
        return None
    differing = {
        name for name in {*then.index, *state.index} if then.index.get(name) != state.index.get(name)
    }
    left = [index / then.index[name] for name in sorted(differing & set(then.index))]
    if not all(file.exists() for file in left):
        return None
    come = [index / state.index[name] for name in sorted(differing & set(state.index))]
    was, now = (_index_rows(files) for files in (left, come))
    same = [name for name in was.columns if name != "image_id"]
    both = was.join(now, on="image_id", suffix="_now")
    equal = both.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_now")) for name in same))
    differ = pl.concat([was, now]).join(equal, on="image_id", how="anti")
    of_groups = pl.col("group").is_in(differ["group"].unique().implode())
    rows = table_parts.scan(index).select(_INDEX_COLUMNS).filter(of_groups).collect()
    return _Changed(rows, was.join(now, on="image_id", how="anti")["image_id"])


_INDEX_COLUMNS = ["image_id", "label", "status", "group", "batch", "sources"]


def _index_rows(files: list[AnyPath]) -> pl.DataFrame:
    """Return what splits are computed from, and the names of the batches that hold an image as one text."""
    held = pl.col("sources").list.eval(pl.element().struct.field("batch")).list.join(" ")
    nothing = pl.LazyFrame(schema=dict.fromkeys([*_INDEX_COLUMNS[:-1], "held"], pl.String))
    rows = (pl.scan_parquet(str(file)).select(*_INDEX_COLUMNS[:-1], held=held) for file in files)
    return pl.concat([nothing, *rows]).collect()


def _rows_of(before: Manifest, changed: _Changed) -> pl.DataFrame:
    """Return the rows of the splits before that are replaced or removed."""
    image_ids = pl.concat([changed.index["image_id"], changed.gone])
    return before.scan().filter(pl.col("image_id").is_in(image_ids.implode())).collect()


def _append_new(record: AssignmentRecord, splits: pl.DataFrame, is_known: pl.Series) -> int:
    """Record the assignments that the record does not hold, and return their number."""
    new = splits.select("image_id", "split", "label", "batch").filter(
        ~is_known & splits["split"].is_not_null()
    )
    record.append(new)
    return len(new)


def _counted(rows: pl.DataFrame) -> list[tuple[str | None, str | None, int]]:
    """Return what is recorded of a part: how many images of each class each split holds."""
    return rows.group_by("label", "split").len().sort("label", "split").rows()


def _part_of(rows: pl.DataFrame) -> Part:
    return Part("", len(rows), "", _counted(rows))


def _count_splits(parts: Iterable[Part]) -> Counts:
    """Return how many images of each class each split holds."""
    counts: Counts = {}
    for label, split, number in (one for part in parts for one in part.counts):
        if label is not None and split is not None:
            counts.setdefault(label, np.zeros(len(SPLITS), np.int64))[SPLITS.index(split)] += number
    return counts


def _without(counts: Counts, those: Counts) -> Counts:
    return {label: count - those.get(label, 0) for label, count in counts.items()}


def _recorded_rows(splits: Manifest, known: pl.DataFrame) -> int:
    """Return how many images of the splits the record holds: those with a split, and some of the others."""
    assigned = sum(number for part in splits.parts.values() for _, split, number in part.counts if split)
    if assigned == splits.rows:
        return assigned
    excluded = splits.scan().filter(pl.col("split").is_null()).select("image_id").collect()
    return assigned + len(excluded.join(known, on="image_id", how="semi"))


def files_named_by(splits: AnyPath) -> list[str] | None:
    """Return the files of the record from which splits were computed.

    Returns:
        None where there are no splits that can be read, or a version without a record wrote them.
    """
    if found := table_parts.find_manifest(splits, SPLITS_SCHEMA):
        return list(found.about["split_assignments"])
    earlier = of_earlier_version(splits)
    if not earlier.is_file():
        return None
    try:
        with earlier.open("rb") as file:
            metadata = pq.read_schema(file).metadata or {}
        return json.loads(metadata[_ASSIGNMENT_FILES]) if _ASSIGNMENT_FILES in metadata else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise_if_passing(error)
        return None


def _known_assignments(target: AnyPath, record: AssignmentRecord, *, accept_loss: bool) -> pl.DataFrame:
    """Return the record, to which splits of a version without one are added first."""
    named = files_named_by(target)
    if named is not None and not accept_loss:
        record.require(named, str(target))
    known = record.read()
    if table_parts.exists(target) and (named is None or accept_loss):
        earlier = _assigned_before(target)
        if earlier is None and known.is_empty() and not accept_loss:
            raise AssignmentError(
                f"split assignments are lost: {record.folder} holds none, and {target} is damaged. "
                f"No image is assigned a new split: {record.how_to_restore}, {GO_ON}"
            )
        if earlier is not None:
            record.append(earlier.join(known, on="image_id", how="anti"))
            return record.read()
    return known


def _assigned_before(splits: AnyPath) -> pl.DataFrame | None:
    """Return the assignments that splits hold, None where they are damaged."""
    columns = ["image_id", "split", "label", "batch"]
    try:
        return table_parts.scan(splits).select(columns).drop_nulls(["split", "label"]).collect()
    except (pl.exceptions.PolarsError, OSError, DamagedTableError) as error:
        raise_if_passing(error)
        return None


def _summarize(splits: Manifest, new: int, removed: int, spec: DatasetSpec) -> SplitSummary:
    counts = _count_splits(splits.parts.values())
    labels = {label for part in splits.parts.values() for label, _, _ in part.counts}
    by_class = {
        name: dict(zip(SPLITS, counts.get(name, np.zeros(len(SPLITS), np.int64)).tolist(), strict=True))
        for name in spec.classes
        if name in labels
    }
    by_split = {name: sum(counts[name] for counts in by_class.values()) for name in SPLITS}
    assigned = sum(number for part in splits.parts.values() for _, split, number in part.counts if split)
    return SplitSummary(
        **by_split,
        excluded=splits.rows - assigned,
        by_class=by_class,
        new=new,
        removed=removed,
        version=splits.version,
    )
