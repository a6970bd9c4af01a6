"""The image index: one row per distinct image over all batches.

Exact duplicates are merged, images whose sources contradict each other in the label are set aside, and
near-duplicates of one class form groups. The same batches give the same index, in whatever
order they came; what is known about near-duplicates from the index before only saves work.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.features import CROPS, TABLES, thumbnails
from captcha_assets.images.label_decisions import check_decisions, read_decisions, with_decisions
from captcha_assets.images.near_duplicates import Rows, near_duplicate_groups, rule
from captcha_assets.images.table_files import StaleTableError, require_columns, require_table, write_frame

USABLE = "usable"
LABEL_CONFLICT = "label_conflict"

_TEXT, _REAL = pa.string(), pa.float32()
_SOURCE = pa.struct([pa.field("batch", _TEXT), pa.field("member", _TEXT), pa.field("label", _TEXT)])
INDEX_SCHEMA = pa.schema(
    [
        pa.field("image_id", _TEXT, nullable=False),
        pa.field("label", _TEXT),
        pa.field("status", _TEXT, nullable=False),
        pa.field("group", _TEXT, nullable=False),
        pa.field("batch", _TEXT, nullable=False),
        pa.field("member", _TEXT, nullable=False),
        pa.field("copies", pa.int32(), nullable=False),
        pa.field("sources", pa.list_(_SOURCE), nullable=False),
        pa.field("brightness", _REAL, nullable=False),
        pa.field("contrast", _REAL, nullable=False),
        pa.field("foreground_fraction", _REAL, nullable=False),
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "label": "Its class; empty where its sources contradict each other.",
    "status": "usable, or label_conflict: set aside until a person decides.",
    "group": "Near-duplicate group, named by its smallest image_id; an image alone is its own.",
    "batch": "The batch it is taken from: the first by name of those that hold it.",
    "member": "Path within that batch's archive.",
    "copies": "Number of files that hold it, over all batches.",
    "sources": "Every batch, path and label it came with.",
    "brightness": "Mean gray value, 0 to 255.",
    "contrast": "Standard deviation of the gray values.",
    "foreground_fraction": "Share of pixels darker than the middle of the scale, 0 to 1.",
}
#: The columns of other assets that each column is derived from: (asset, column).
COLUMN_ORIGINS: dict[str, list[tuple[str, str]]] = {
    "image_id": [("image_table", "image_id")],
    "label": [("image_table", "label"), ("label_decisions", "decision"), ("label_decisions", "label")],
    "status": [("image_table", "label"), ("label_decisions", "decision")],
    "group": [("image_table", name) for name in ("image_id", "label", "signature", "pixels")],
    "batch": [("image_table", "batch")],
    "member": [("image_table", "member")],
    "copies": [("image_table", "image_id")],
    "sources": [("image_table", name) for name in ("batch", "member", "label")],
    "brightness": [("image_table", "brightness")],
    "contrast": [("image_table", "contrast")],
    "foreground_fraction": [("image_table", "foreground_fraction")],
}

_RULE_KEY = b"near_duplicate_rule"
_REPETITIVE = ["label", "status", "batch", "sources.list.element.batch", "sources.list.element.label"]
_COLUMNS = ["image_id", "batch", "member", "label", "brightness", "contrast", "foreground_fraction"]
#: Decoded row groups kept at hand while one class is searched, some 3.5 MB each.
_ROW_GROUPS_AT_HAND = 32
_FILES_AT_HAND = 128


@dataclass(frozen=True)
class IndexSummary:
    """What an index holds.

    Attributes:
        images: distinct images, usable or not.
        usable: those with a label that nothing contradicts.
        duplicates: exact copies beyond the first.
        conflicts: images with contradicting labels.
        groups: near-duplicate groups of two images or more.
        images_in_groups: images in such groups.
        by_class: usable images of each class that occurs, in the order of the classes.
        version: data version of the index.
        idle_decisions: a line for each decision that has no effect, and why.
    """

    images: int
    usable: int
    duplicates: int
    conflicts: int
    groups: int
    images_in_groups: int
    by_class: dict[str, int]
    version: str
    idle_decisions: tuple[str, ...] = ()


def build_image_index(
    tables: Mapping[str, AnyPath],
    target: AnyPath,
    spec: DatasetSpec,
    decisions: AnyPath | None = None,
) -> IndexSummary:
    """Write the index of the image tables of all batches; it is complete or absent.

    Args:
        tables: batch name to its image table.
        target: where the index goes. An index that lies there is consulted for near-duplicates among
            images it knows; without it the result is the same.
        spec: what the images look like.
        decisions: file of people's decisions about single images, see `label_decisions`.

    Raises:
        DecisionError: the decisions cannot be followed.
        MissingTableError: an image table is not there.
        StaleTableError: an image table was written by another version of the code.
    """
    named = rule(spec.near_duplicate_correlation)
    with ExitStack() as stack:
        paths = {name: require_table(tables[name]) for name in sorted(tables)}
        local = {
            name: require_columns(Path(stack.enter_context(fetched(path))), _COLUMNS)
            for name, path in paths.items()
        }
        images, idle = _distinct(local, decisions, spec)
        groups = _groups(images, list(local.values()), _known_groups(target, named), spec)
        rows = images.with_columns(group=images["image_id"].gather(groups)).select(INDEX_SCHEMA.names)
        version = write_frame(rows, INDEX_SCHEMA, target, _REPETITIVE, {_RULE_KEY: named})
    return replace(_summarize(rows, version, spec), idle_decisions=idle)


def list_conflicts(target: AnyPath) -> pl.DataFrame:
    """Return the images of an index that contradicting labels set aside: `image_id`, `sources`."""
    return (
        pl.scan_parquet(str(target))
        .filter(pl.col("status") == LABEL_CONFLICT)
        .select("image_id", "sources")
        .collect()
    )


def _distinct(
    tables: Mapping[str, Path], decisions: AnyPath | None, spec: DatasetSpec
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return a row per image, and the decisions that have no effect, in words.

    The rows are in order of `image_id` and say where the first source lies (`table`, `row`).
    """
    decided, images = read_decisions(decisions, spec), _by_image(tables)
    idle: tuple[str, ...] = ()
    if decisions is not None and len(decided):
        collected = images.collect()
        images, idle = collected.lazy(), check_decisions(collected, decided, decisions)
    label = pl.coalesce("decided", "label")
    status = pl.when(label.is_null()).then(pl.lit(LABEL_CONFLICT)).otherwise(pl.lit(USABLE))
    return with_decisions(images, decided).with_columns(label=label, status=status).collect(), idle


def _by_image(tables: Mapping[str, Path]) -> pl.LazyFrame:
    """Return a row per image with its sources, and the label that all of them state, if they agree."""
    scans = [
        pl.scan_parquet(path, row_index_name="row").select("row", *_COLUMNS, table=pl.lit(number, pl.Int32))
        for number, path in enumerate(tables.values())
    ]
    nothing = pl.LazyFrame(schema={"row": pl.UInt32, **_SCHEMA_OF_COLUMNS, "table": pl.Int32})
    return (
        pl.concat([nothing, *scans])
        .sort("image_id", "batch", "member")
        .group_by("image_id", maintain_order=True)
        .agg(
            pl.when(pl.col("label").n_unique() == 1).then(pl.col("label").first()).alias("label"),
            pl.struct("batch", "member", "label").alias("sources"),
            pl.len().cast(pl.Int32).alias("copies"),
            pl.col(
                "batch", "member", "brightness", "contrast", "foreground_fraction", "table", "row"
            ).first(),
        )
    )


_SCHEMA_OF_COLUMNS = {
    "image_id": pl.String,
    "batch": pl.String,
    "member": pl.String,
    "label": pl.String,
    "brightness": pl.Float32,
    "contrast": pl.Float32,
    "foreground_fraction": pl.Float32,
}


def _known_groups(target: AnyPath, named: str) -> pl.DataFrame | None:
    """Return `image_id`, `label`, `group` of usable images of the index before, if its rule is `named`."""
    if not target.exists():
        return None
    with fetched(target) as local:
        try:
            metadata = pq.read_schema(local).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return None  # damaged: it is about to be replaced
        if metadata.get(_RULE_KEY) != named.encode():
            return None
        return pl.read_parquet(local, columns=["image_id", "label", "group"]).drop_nulls("label")


def _with_known(images: pl.DataFrame, known: pl.DataFrame | None) -> pl.DataFrame:
    """Return the images with `known`, their group before; null for those that have to be searched.

    A group that has lost a member may fall apart: its other members are searched again.
    """
    if known is None:
        return images.with_columns(known=pl.lit(None, pl.String))
    before = known.rename({"label": "label_before", "group": "known"})
    there = images.join(before, on="image_id", how="left", maintain_order="left")
    same = there.filter(pl.col("label") == pl.col("label_before"))
    # nearly always no image is gone
    gone = known.clear() if len(same) == len(known) else known.join(same, on="image_id", how="anti")
    whole = (pl.col("label") == pl.col("label_before")) & ~pl.col("known").is_in(gone["group"].implode())
    return there.with_columns(known=pl.when(whole).then("known")).drop("label_before")


def _firsts(numbered: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Return for each image the number of the image that its known group is named after, else its own."""
    groups = np.arange(len(numbered))
    others = numbered.filter(pl.col("known") != pl.col("image_id")).select("number", image_id="known")
    named = others.join(numbered.select("image_id", first="number"), on="image_id")
    groups[named["number"].to_numpy()] = named["first"].to_numpy()
    return groups


def _groups(
    images: pl.DataFrame, tables: list[Path], known: pl.DataFrame | None, spec: DatasetSpec
) -> npt.NDArray[np.int64]:
    """Return for each image, in order of `image_id`, the first of its near-duplicate group."""
    numbered = _with_known(images.select("image_id", "label", "table", "row"), known).with_row_index("number")
    groups = _firsts(numbered)
    fresh = numbered["known"].is_null().to_numpy()
    reader = _BinaryReader(tables)
    # in the order of the files, so that what is read together lies together
    usable = numbered.select("number", "label", "table", "row").drop_nulls("label").sort("table", "row")
    for members in usable.partition_by("label", maintain_order=True):
        here = members["number"].to_numpy()
        if fresh[here].any():
            groups[here] = _search(members, groups[here], fresh[here], reader, spec)
    reader.clear_caches()
    return groups


def _search(
    members: pl.DataFrame,
    groups: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    reader: "_BinaryReader",
    spec: DatasetSpec,
) -> npt.NDArray[np.int64]:
    """Return the groups of the images of one class, each by its smallest number."""
    table, row = members["table"].to_numpy(), members["row"].to_numpy()
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    stored = reader.read("signature", table, row)
    if stored.shape[1] != 4 * TABLES * len(CROPS):
        raise StaleTableError(
            "image tables were written by another version of the code: materialize image_table again"
        )
    signatures = stored.view(np.uint32).reshape(-1, TABLES, len(CROPS))

    def small(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return thumbnails(pixels.reshape(-1, *spec.shape))

    def thumbnails_of(rows: Rows) -> npt.NDArray[np.uint8]:
        return reader.read("pixels", table[rows], row[rows], small)

    correlation = spec.near_duplicate_correlation
    found = near_duplicate_groups(signatures, thumbnails_of, correlation, first[inverse], fresh)
    smallest = np.full(len(members), np.iinfo(np.int64).max)
    np.minimum.at(smallest, found, groups)
    return smallest[found]


class _BinaryReader:
    """Reads single values of the binary columns of image tables, a row group at a time."""

    def __init__(self, tables: list[Path]) -> None:
        # read through a small buffer, a row group is not held twice
        opened = partial(pq.ParquetFile, buffer_size=1 << 16)
        self._open = lru_cache(_FILES_AT_HAND)(lambda table: opened(tables[table]))
        self._row_group = lru_cache(_ROW_GROUPS_AT_HAND)(self._read_row_group)

    def read(
        self,
        column: str,
        table: npt.NDArray[np.int32],
        row: npt.NDArray[np.uint32],
        convert: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] = lambda values: values,
    ) -> npt.NDArray[np.uint8]:
        """Return the values of these rows, uint8 (n, bytes), or `convert` of them."""
        parts, order = [], []
        for number in np.unique(table):
            here = np.flatnonzero(table == number)
            ends = self._ends(int(number))
            groups = np.searchsorted(ends, row[here], side="right")
            for group in np.unique(groups):
                values = self._row_group(column, int(number), int(group))
                chosen = here[groups == group]
                order.append(chosen)
                parts.append(convert(values[row[chosen] - (ends[group] - len(values))]))
        result = np.concatenate(parts)
        result[np.concatenate(order)] = result.copy()
        return result

    def clear_caches(self) -> None:
        """Empty the caches: they hold a reference to the reader itself."""
        self._open.cache_clear()
        self._row_group.cache_clear()

    def _ends(self, table: int) -> npt.NDArray[np.int64]:
        metadata = self._open(table).metadata
        return np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])

    def _read_row_group(self, column: str, table: int, group: int) -> npt.NDArray[np.uint8]:
        values = self._open(table).read_row_group(group, columns=[column]).column(0).combine_chunks()
        return np.frombuffer(values.buffers()[2], np.uint8).reshape(len(values), -1)


def _summarize(rows: pl.DataFrame, version: str, spec: DatasetSpec) -> IndexSummary:
    usable = rows.filter(pl.col("status") == USABLE)
    sizes = usable["group"].value_counts().filter(pl.col("count") > 1)["count"]
    classes = dict(usable["label"].value_counts().iter_rows())
    return IndexSummary(
        images=len(rows),
        usable=len(usable),
        duplicates=int(rows["copies"].sum()) - len(rows),
        conflicts=len(rows) - len(usable),
        groups=len(sizes),
        images_in_groups=int(sizes.sum()),
        by_class={name: classes[name] for name in spec.classes if name in classes},
        version=version,
    )
