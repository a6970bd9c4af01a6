"""The image index: one row per distinct image over all batches.

Exact duplicates are merged, images whose sources contradict each other in the label are set aside, and
near-duplicates of one class form groups. The same batches give the same index, in whatever
order they came; what is known about near-duplicates from the index before only saves work.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, fetched, remove
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import table_parts
from captcha_assets.images.content_hash import table_version
from captcha_assets.images.features import CROPS, TABLES, thumbnails
from captcha_assets.images.label_decisions import check_decisions, read_decisions, with_decisions
from captcha_assets.images.near_duplicates import (
    Buckets,
    Rows,
    Signatures,
    near_duplicate_groups,
    rule,
)
from captcha_assets.images.table_files import StaleTableError, require_columns, require_table
from captcha_assets.images.table_parts import Manifest, WaitingRows, Writer, of_earlier_version, waiting_rows

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
    "group": [("image_table", name) for name in ("image_id", "label", "signature", "descriptors", "pixels")],
    "batch": [("image_table", "batch")],
    "member": [("image_table", "member")],
    "copies": [("image_table", "image_id")],
    "sources": [("image_table", name) for name in ("batch", "member", "label")],
    "brightness": [("image_table", "brightness")],
    "contrast": [("image_table", "contrast")],
    "foreground_fraction": [("image_table", "foreground_fraction")],
}

_REPETITIVE = ["label", "status", "batch", "sources.list.element.batch", "sources.list.element.label"]
_COLUMNS = ["image_id", "batch", "member", "label", "brightness", "contrast", "foreground_fraction"]
_COMPARED = ["signature", "descriptors", "pixels"]
#: Decoded row groups kept at hand while one class is searched, some 3.5 MB each.
_ROW_GROUPS_AT_HAND = 32
_FILES_AT_HAND = 128
#: Row groups whose signatures are read together, some 0.4 MB each.
_ROW_GROUPS_AT_ONCE = 8
#: Images that are sorted and merged together, some 0.4 KB each while it lasts.
_ROWS_TOGETHER = 6_000_000


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
        target: folder of the index (`table_parts`). Of an index that lies there, only images are computed
            that batches or decisions touch which have changed since; the result is the same without it.
        spec: what the images look like.
        decisions: file of people's decisions about single images, see `label_decisions`.

    Raises:
        DecisionError: the decisions cannot be followed.
        MissingTableError: an image table is not there.
        StaleTableError: an image table was written by another version of the code, or replaced meanwhile.
    """
    with ExitStack() as stack:
        paths = {name: require_table(tables[name]) for name in sorted(tables)}
        local = {
            name: require_columns(Path(stack.enter_context(fetched(path))), [*_COLUMNS, *_COMPARED])
            for name, path in paths.items()
        }
        decided = read_decisions(decisions, spec)
        now = _Inputs(
            rule=rule(spec.near_duplicate_correlation),
            tables={name: table_version(path) for name, path in local.items()},
            decisions={name: [word, label] for name, word, label, _ in decided.iter_rows()},
        )
        idle = _idle(local, decided, decisions)
        writer, before = stack.enter_context(table_parts.writing(target, INDEX_SCHEMA, _REPETITIVE, _counted))
        then = _Inputs(**before.about) if before else None
        sources = _Sources(local, decided, spec)
        with _none_replaced(local, now.tables):
            if before is None or then is None or then.rule != now.rule:
                _write_whole(writer, sources)
            else:
                _write_touched(writer, before, _touched(before, then, now, local), sources)
        index = writer.commit(vars(now))
    remove(of_earlier_version(target))
    return replace(_summarize(index, spec), idle_decisions=idle)


@contextmanager
def _none_replaced(tables: Mapping[str, Path], versions: dict[str, str]) -> Iterator[None]:
    """Notice tables that are replaced while they are read, whatever error that leads to.

    Raises:
        StaleTableError: one was.
    """

    def require_versions(error: Exception | None = None) -> None:
        if versions != {name: table_version(path) for name, path in tables.items()}:
            raise StaleTableError(
                "an image table was replaced while it was read: materialize image_index again"
            ) from error

    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError, IndexError) as error:
        require_versions(error)
        raise
    require_versions()


@dataclass(frozen=True)
class _Inputs:
    """What an index was computed from, as its manifest records it.

    Attributes:
        rule: of near-duplicates.
        tables: version of the image table of each batch.
        decisions: word and label by image.
    """

    rule: str
    tables: dict[str, str]
    decisions: dict[str, list[str | None]]


@dataclass(frozen=True)
class _Sources:
    """What rows are computed from: image tables by batch, decisions, and what the images look like."""

    tables: Mapping[str, Path]
    decided: pl.DataFrame
    spec: DatasetSpec


def _write_whole(writer: Writer, sources: _Sources) -> None:
    """Write the index of all images; their rows wait on the disk until the groups are known."""
    with waiting_rows() as waiting:
        rows = (_with_labels(some, sources.decided) for some in _by_image(sources.tables))
        images = _set_aside(rows, waiting)
        groups = images["image_id"].gather(_groups(images, list(sources.tables.values()), sources.spec))
        for batch, some in waiting.batches():
            writer.write(batch, some.with_columns(group=groups.gather(some["number"])))


def _touched(before: Manifest, then: _Inputs, now: _Inputs, tables: Mapping[str, Path]) -> pl.Series:
    """Return the images that something has changed about: a batch that holds them, or a decision."""
    changed = {name for name, version in now.tables.items() if then.tables.get(name) != version}
    gone = {name for name, version in then.tables.items() if now.tables.get(name) != version}
    decisions = [
        name
        for name in {*then.decisions, *now.decisions}
        if then.decisions.get(name) != now.decisions.get(name)
    ]
    come = [pl.read_parquet(tables[name], columns=["image_id"])["image_id"] for name in sorted(changed)]
    holding = [name for name, part in before.parts.items() if gone & set(part.counts["sources"])]
    left = before.scan(holding).filter(_held_by(gone)).select("image_id").collect() if holding else None
    decided = pl.Series("image_id", decisions, pl.String)
    return pl.concat([decided, *come, *([] if left is None else [left["image_id"]])]).unique()


def _held_by(batches: Collection[str]) -> pl.Expr:
    """Whether one of these batches holds an image."""
    held = pl.col("sources").list.eval(pl.element().struct.field("batch").is_in(list(batches)))
    return held.list.any()


def _write_touched(writer: Writer, before: Manifest, touched: pl.Series, sources: _Sources) -> None:
    """Write the parts of the index that hold touched images, or near-duplicates that these tie anew."""
    if touched.is_empty():
        writer.keep(before.parts)
        return
    is_touched = pl.col("image_id").is_in(touched.implode())
    now = _with_labels(_of_images(sources.tables, touched), sources.decided)
    was = before.scan().filter(is_touched).collect()
    again, fresh, known = _to_search(before, now, was, is_touched)
    named, renamed = _grouped(fresh, known, before.scan().filter(~is_touched), sources)
    groups = pl.concat([named, known.select("image_id", "group")]).with_columns(
        pl.col("group").replace(renamed)
    )
    alone = now.filter(pl.col("label").is_null()).select("image_id", group="image_id")
    now = now.join(pl.concat([groups, alone]), on="image_id").select(INDEX_SCHEMA.names)
    tied = pl.col("group").is_in(list(renamed)) | pl.col("image_id").is_in(again["image_id"].implode())
    others = before.scan().filter(tied & ~is_touched).collect() if renamed or len(again) else was.clear()
    anew = others.drop("group").join(
        pl.concat([named, others.select("image_id", pl.col("group").replace(renamed))]).unique(
            "image_id", keep="first"
        ),
        on="image_id",
    )
    writer.replace(before, pl.concat([was, others]), pl.concat([now, anew.select(INDEX_SCHEMA.names)]))


def _to_search(
    before: Manifest, now: pl.DataFrame, was: pl.DataFrame, is_touched: pl.Expr
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return which images have to be compared with others.

    Returns:
        Untouched images whose group has lost a member, so that it may fall apart; all that have to be
        compared; and the touched ones whose group, in `group`, is known.
    """
    usable = now.drop_nulls("label").select("image_id", "label")
    named = was.drop_nulls("label").select("image_id", "label", "group")
    same = usable.join(named, on=["image_id", "label"])
    lost = named.join(same, on="image_id", how="anti")["group"].unique()
    torn = pl.col("group").is_in(lost.implode())
    again = usable.clear()
    if not lost.is_empty():
        again = before.scan().filter(torn & ~is_touched).select("image_id", "label").collect()
    known = same.filter(~torn)
    fresh = usable.join(known, on="image_id", how="anti")
    return again, pl.concat([fresh, again]), known


def _grouped(
    fresh: pl.DataFrame, known: pl.DataFrame, others: pl.LazyFrame, sources: _Sources
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Compare images with all others of their class.

    Args:
        fresh: `image_id` and `label` of the images to compare.
        known: `image_id`, `label` and `group` of touched images that need not be compared with each other.
        others: the untouched images, as they stand in the index.
        sources: where the images are read.

    Returns:
        `image_id` and `group` of the compared images, and the new name of each group that has one.
    """
    if fresh.is_empty():
        return fresh.select("image_id", group="image_id"), {}
    tables = list(sources.tables.values())
    reader = _BinaryReader(tables)
    near = _near(tables, reader, fresh["image_id"])
    is_near = pl.col("image_id").is_in(near["image_id"].implode()) & pl.col("label").is_not_null()
    there = pl.concat([known, others.filter(is_near).select("image_id", "label", "group").collect()])
    there = there.join(fresh, on="image_id", how="anti")
    every = pl.concat([fresh.with_columns(group="image_id"), there.select("image_id", "label", "group")])
    every = every.join(near, on="image_id").sort("table", "row")
    # groups by number, in the order of their names
    names = pl.concat([every["image_id"], every["group"]]).unique().sort()
    number = pl.Series(names.search_sorted(every["group"])).to_numpy().astype(np.int64)
    is_fresh = every["image_id"].is_in(fresh["image_id"].implode()).to_numpy()
    found = number.copy()
    for members in every.with_row_index("place").partition_by("label", maintain_order=True):
        here = members["place"].to_numpy()
        if is_fresh[here].any():
            found[here] = _search(members, number[here], is_fresh[here], reader, sources.spec)
    reader.clear_caches()
    every = every.with_columns(new=names.gather(found))
    changed = every.filter(pl.Series(~is_fresh) & (pl.col("group") != pl.col("new")))
    named = every.filter(pl.Series(is_fresh)).select("image_id", group="new")
    return named, dict(changed.select("group", "new").unique().iter_rows())


def list_conflicts(target: AnyPath) -> pl.DataFrame:
    """Return the images of an index that contradicting labels set aside: `image_id`, `sources`."""
    return (
        table_parts.scan(target)
        .filter(pl.col("status") == LABEL_CONFLICT)
        .select("image_id", "sources")
        .sort("image_id")
        .collect()
    )


def _set_aside(labelled: Iterable[pl.DataFrame], waiting: WaitingRows) -> pl.DataFrame:
    """Number rows, and let them wait; return what is kept of all of them at once."""
    images: list[pl.DataFrame] = []
    for rows in labelled:
        waiting.add(rows.with_row_index("number", sum(map(len, images))))
        images.append(_narrow(rows))
    return pl.concat(images)


def _with_labels(images: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    label = pl.coalesce("decided", "label")
    status = pl.when(label.is_null()).then(pl.lit(LABEL_CONFLICT)).otherwise(pl.lit(USABLE))
    return with_decisions(images.lazy(), decided).with_columns(label=label, status=status).collect()


def _rows(tables: Mapping[str, Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in tables.values())


def _narrow(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what is kept of all images at once, its texts in buffers that hold nothing else."""
    texts = (pl.Series(name, rows[name].to_arrow().cast(pa.large_string())) for name in ("image_id", "label"))
    return rows.select(*texts, "table", "row", "copies")


def _idle(tables: Mapping[str, Path], decided: pl.DataFrame, path: AnyPath | None) -> tuple[str, ...]:
    """Return the decisions that have no effect, in words."""
    if path is None or decided.is_empty():
        return ()
    return check_decisions(_of_images(tables, decided["image_id"]), decided, path)


def _by_image(tables: Mapping[str, Path]) -> Iterator[pl.DataFrame]:
    """Yield a row per image with its sources, and the label that all of them state, if they agree.

    The images come in order, a range of ids at a time.
    """
    files = _files(tables)
    for here in _ranges(_rows(tables)):
        yield _merged(files.filter(here))


def _of_images(tables: Mapping[str, Path], image_ids: pl.Series) -> pl.DataFrame:
    """Return the same of some images."""
    return _merged(_files(tables).filter(pl.col("image_id").is_in(image_ids.implode())))


def _files(tables: Mapping[str, Path]) -> pl.LazyFrame:
    """Open the image tables: a row per file of an archive, and where it lies."""
    scans = [
        pl.scan_parquet(path, row_index_name="row").select("row", *_COLUMNS, table=pl.lit(number, pl.Int32))
        for number, path in enumerate(tables.values())
    ]
    nothing = pl.LazyFrame(schema={"row": pl.UInt32, **_SCHEMA_OF_COLUMNS, "table": pl.Int32})
    return pl.concat([nothing, *scans])


def _merged(files: pl.LazyFrame) -> pl.DataFrame:
    return (
        files.sort("image_id", "batch", "member")
        .group_by("image_id", maintain_order=True)
        .agg(
            pl.when(pl.col("label").n_unique() == 1).then(pl.col("label").first()).alias("label"),
            pl.struct("batch", "member", "label").alias("sources"),
            pl.len().cast(pl.Int32).alias("copies"),
            pl.col(
                "batch", "member", "brightness", "contrast", "foreground_fraction", "table", "row"
            ).first(),
        )
        .collect()
    )


def _ranges(rows: int) -> list[pl.Expr]:
    """Return conditions that divide images evenly by the first digits of their ids, which are hashes."""
    number = min(256, 1 + rows // _ROWS_TOGETHER)
    bounds = [f"{256 * place // number:02x}" for place in range(1, number)]
    image_id = pl.col("image_id")
    return [
        (image_id >= low if low else pl.lit(value=True)) & (image_id < high if high else pl.lit(value=True))
        for low, high in zip(["", *bounds], [*bounds, ""], strict=True)
    ]


_SCHEMA_OF_COLUMNS = {
    "image_id": pl.String,
    "batch": pl.String,
    "member": pl.String,
    "label": pl.String,
    "brightness": pl.Float32,
    "contrast": pl.Float32,
    "foreground_fraction": pl.Float32,
}


def _groups(images: pl.DataFrame, tables: list[Path], spec: DatasetSpec) -> npt.NDArray[np.int64]:
    """Return for each image, in order of `image_id`, the first of its near-duplicate group."""
    numbered = images.select("label", "table", "row").with_row_index("number")
    groups = np.arange(len(images))
    reader = _BinaryReader(tables)
    # in the order of the files, so that what is read together lies together
    usable = numbered.drop_nulls("label").sort("table", "row")
    for members in usable.partition_by("label", maintain_order=True):
        here = members["number"].to_numpy()
        groups[here] = _search(members, groups[here], np.ones(len(here), bool), reader, spec)
    reader.clear_caches()
    return groups


def _near(tables: list[Path], reader: "_BinaryReader", image_ids: pl.Series) -> pl.DataFrame:
    """Return `image_id`, `table`, `row` of images, and of all that share a bucket with one of them."""
    is_own = pl.col("image_id").is_in(image_ids.implode())
    places = [
        pl.scan_parquet(path, row_index_name="row").select("image_id", "row", table=pl.lit(number, pl.Int32))
        for number, path in enumerate(tables)
    ]
    own = pl.concat(places).filter(is_own).collect().unique("image_id", keep="first", maintain_order=True)
    wanted = Buckets(_as_buckets(reader.read("signature", own["table"].to_numpy(), own["row"].to_numpy())))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows = list(pool.map(partial(_rows_sharing, wanted), tables))
    near = [
        place.filter(pl.col("row").is_in(pl.Series(some, dtype=pl.UInt32).implode()))
        for place, some in zip(places, rows, strict=True)
        if len(some)
    ]
    return pl.concat([own.lazy(), *near]).collect().unique("image_id", keep="first", maintain_order=True)


def _rows_sharing(wanted: Buckets, table: Path) -> npt.NDArray[np.int64]:
    """Return the rows of an image table that share a bucket with one of the wanted."""
    with pq.ParquetFile(table) as file:
        found = [start + wanted.sharing(some) for start, some in _signatures(file)]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _signatures(file: pq.ParquetFile) -> Iterator[tuple[int, Signatures]]:
    """Yield the signatures of an image table, some row groups at a time, and the number of the first row."""
    start = 0
    count = file.num_row_groups if file.metadata.num_rows else 0
    for first in range(0, count, _ROW_GROUPS_AT_ONCE):
        groups = range(first, min(first + _ROW_GROUPS_AT_ONCE, count))
        some = _as_buckets(_matrix(file.read_row_groups(groups, columns=["signature"])))
        yield start, some
        start += len(some)


def _as_buckets(stored: npt.NDArray[np.uint8]) -> Signatures:
    """Return stored signatures as uint32 (n, tables, crops).

    Raises:
        StaleTableError: another version of the code wrote them.
    """
    if stored.shape[1] != 4 * TABLES * len(CROPS):
        raise StaleTableError(
            "image tables were written by another version of the code: materialize image_table again"
        )
    return stored.view(np.uint32).reshape(-1, TABLES, len(CROPS))


def _matrix(table: pa.Table) -> npt.NDArray[np.uint8]:
    """Return a view of the only column, whose values have one length, as (n, bytes)."""
    column = table.column(0)
    values = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies
    return np.frombuffer(values.buffers()[2] or b"", np.uint8).reshape(len(values), -1)


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
    signatures = _as_buckets(reader.read("signature", table, row))
    descriptors = reader.read("descriptors", table, row).view(np.int8).reshape(len(row), len(CROPS), -1)

    def small(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return thumbnails(pixels.reshape(-1, *spec.shape))

    def thumbnails_of(rows: Rows) -> npt.NDArray[np.uint8]:
        return reader.read("pixels", table[rows], row[rows], small)

    found = near_duplicate_groups(
        signatures,
        descriptors,
        thumbnails_of,
        spec.near_duplicate_correlation,
        known=first[inverse],
        fresh=fresh,
    )
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
        return _matrix(self._open(table).read_row_group(group, columns=[column]))


def _counted(rows: pl.DataFrame) -> dict[str, Any]:
    """Return what is recorded of a part: which batches hold its images, and the number of each label."""
    held = rows["sources"].list.explode().struct.field("batch").unique().sort()
    labels = rows.group_by("label").len().sort("label").rows()
    return {"sources": held.to_list(), "labels": labels, "copies": int(rows["copies"].sum())}


def _summarize(index: Manifest, spec: DatasetSpec) -> IndexSummary:
    labels: Counter[str | None] = Counter()
    for part in index.parts.values():
        labels.update(dict(part.counts["labels"]))
    conflicts = labels.pop(None, 0)
    tied = index.scan().filter(pl.col("group") != pl.col("image_id")).select("group").collect()
    groups = tied["group"].n_unique()
    return IndexSummary(
        images=index.rows,
        usable=index.rows - conflicts,
        duplicates=sum(part.counts["copies"] for part in index.parts.values()) - index.rows,
        conflicts=conflicts,
        groups=groups,
        images_in_groups=len(tied) + groups,  # each group is named after one more
        by_class={name: labels[name] for name in spec.classes if name in labels},
        version=index.version,
    )
