"""The image index: one row per distinct image over all deliveries.

Exact duplicates are merged, images whose sources contradict each other in the label are set aside, and
near-duplicates of one class are tied into groups. The same deliveries give the same index, in whatever
order they came; what is known about near-duplicates from the index before only saves work.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.dataset import CLASSES, HEIGHT, WIDTH
from captcha_assets.images.content import ContentHash
from captcha_assets.images.duplicates import (
    NEAR_DUPLICATE_CORRELATION,
    RULE,
    Pairs,
    candidate_pairs,
    components,
    correlations,
    signature_matrix,
)
from captcha_assets.storage import AnyPath, fetched, replacing

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
        pa.field("near_duplicates", pa.list_(_TEXT), nullable=False),
        pa.field("brightness", _REAL, nullable=False),
        pa.field("contrast", _REAL, nullable=False),
        pa.field("ink", _REAL, nullable=False),
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "label": "Its class; empty where its sources contradict each other.",
    "status": "usable, or label_conflict: set aside until somebody decides.",
    "group": "Near-duplicate group, named by its smallest image_id; an image alone is its own.",
    "batch": "The delivery it is taken from: the first by name of those that hold it.",
    "member": "Path within that delivery's archive.",
    "copies": "How often it was delivered.",
    "sources": "Every delivery, path and label it came with.",
    "near_duplicates": "The images of its class that show the same picture.",
    "brightness": "Mean gray value, 0 to 255.",
    "contrast": "Standard deviation of the gray values.",
    "ink": "Share of pixels darker than the middle of the scale, 0 to 1.",
}

_RULE_KEY = b"near_duplicate_rule"
_COLUMNS = ["image_id", "batch", "member", "label", "brightness", "contrast", "ink"]
_NO_PAIRS = np.zeros((0, 2), np.int64)


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
    """

    images: int
    usable: int
    duplicates: int
    conflicts: int
    groups: int
    images_in_groups: int
    by_class: dict[str, int]
    version: str


def build_image_index(tables: Mapping[str, AnyPath], target: AnyPath) -> IndexSummary:
    """Bring the image tables of all deliveries together; the index is complete or absent.

    Args:
        tables: delivery name to its image table.
        target: where the index goes. An index that lies there is consulted for near-duplicates among
            images it knows; without it the result is the same.
    """
    with ExitStack() as stack:
        local = {name: Path(stack.enter_context(fetched(tables[name]))) for name in sorted(tables)}
        images = _distinct(local)
        pairs = _near_duplicates(images, local, _known_pairs(target))
        rows = _grouped(images, pairs)
        version = _write(rows, target)
    return _summarize(rows, version)


def list_conflicts(target: AnyPath) -> pl.DataFrame:
    """Return the images of an index that contradicting labels set aside: `image_id`, `sources`."""
    return (
        pl.scan_parquet(str(target))
        .filter(pl.col("status") == LABEL_CONFLICT)
        .select("image_id", "sources")
        .collect()
    )


def _distinct(tables: Mapping[str, Path]) -> pl.DataFrame:
    """Return a row per image, in order of `image_id`, with where its first source lies (`table`, `row`)."""
    scans = [
        pl.scan_parquet(path, row_index_name="row").select("row", *_COLUMNS, table=pl.lit(number, pl.Int32))
        for number, path in enumerate(tables.values())
    ]
    nothing = pl.LazyFrame(schema={"row": pl.UInt32, **_SCHEMA_OF_COLUMNS, "table": pl.Int32})
    conflict = pl.col("label").n_unique() > 1
    return (
        pl.concat([nothing, *scans])
        .sort("image_id", "batch", "member")
        .group_by("image_id", maintain_order=True)
        .agg(
            pl.when(conflict).then(None).otherwise(pl.col("label").first()).alias("label"),
            pl.when(conflict).then(pl.lit(LABEL_CONFLICT)).otherwise(pl.lit(USABLE)).alias("status"),
            pl.struct("batch", "member", "label").alias("sources"),
            pl.len().cast(pl.Int32).alias("copies"),
            pl.col("batch", "member", "brightness", "contrast", "ink", "table", "row").first(),
        )
        .collect()
    )


_SCHEMA_OF_COLUMNS = {
    "image_id": pl.String,
    "batch": pl.String,
    "member": pl.String,
    "label": pl.String,
    "brightness": pl.Float32,
    "contrast": pl.Float32,
    "ink": pl.Float32,
}


def _known_pairs(target: AnyPath) -> pl.DataFrame | None:
    """Return `image_id`, `label`, `near_duplicates` of the index that is there, if its rule is ours."""
    if not target.exists():
        return None
    with fetched(target) as local:
        try:
            metadata = pq.read_schema(local).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return None  # it is about to be replaced
        if metadata.get(_RULE_KEY) != RULE.encode():
            return None
        known = pl.read_parquet(local, columns=["image_id", "label", "near_duplicates"])
    return known.drop_nulls("label")


def _near_duplicates(images: pl.DataFrame, tables: Mapping[str, Path], known: pl.DataFrame | None) -> Pairs:
    """Return all pairs of rows of `images` that are near-duplicates, the smaller row first."""
    place = images.select("image_id", "label").with_row_index("place")
    if known is None:
        known = place.select("image_id", "label", near_duplicates=pl.lit([], pl.List(pl.String))).clear()
    seen = place.join(known, on=["image_id", "label"], how="inner")
    fresh = np.ones(len(images), bool)
    fresh[seen["place"].to_numpy()] = False
    pairs = [_among(seen), _NO_PAIRS]
    for label in images["label"].drop_nulls().unique().sort():
        rows = np.flatnonzero((images["label"] == label).fill_null(value=False).to_numpy())
        if fresh[rows].any():
            pairs.append(_within_class(images, rows, fresh[rows], tables))
    return np.concatenate(pairs)


def _among(seen: pl.DataFrame) -> Pairs:
    """Return the known pairs of images that are both still there."""
    return (
        seen.select("place", pl.col("near_duplicates"))
        .explode("near_duplicates", empty_as_null=False)
        .join(seen.select("image_id", other="place"), left_on="near_duplicates", right_on="image_id")
        .filter(pl.col("place") < pl.col("other"))
        .select(pl.col("place", "other").cast(pl.Int64))
        .to_numpy()
        .reshape(-1, 2)
    )


def _within_class(
    images: pl.DataFrame,
    rows: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    tables: Mapping[str, Path],
) -> Pairs:
    members = images[rows].select("table", "row")
    signatures = signature_matrix(_read_rows(members, tables, "signature").view(np.float16))
    candidates = candidate_pairs(signatures, fresh)
    if len(candidates) == 0:
        return candidates
    needed, positions = np.unique(candidates, return_inverse=True)
    pixels = _read_rows(members[needed], tables, "pixels").reshape(-1, HEIGHT, WIDTH)
    first, second = positions.reshape(-1, 2).T
    same = np.concatenate(
        [
            correlations(pixels[first[start:end]], pixels[second[start:end]]) >= NEAR_DUPLICATE_CORRELATION
            for start, end in _blocks(len(candidates))
        ]
    )
    return rows[candidates[same]]


def _blocks(count: int, size: int = 1024) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _read_rows(wanted: pl.DataFrame, tables: Mapping[str, Path], column: str) -> npt.NDArray[np.uint8]:
    """Return a binary column's bytes (n, length) at the wanted places, reading only their row groups."""
    places = wanted.with_row_index("place")
    result: npt.NDArray[np.uint8] | None = None
    for number, path in enumerate(tables.values()):
        here = places.filter(pl.col("table") == number)
        if here.is_empty():
            continue
        values = _read_binary(path, column, here["row"].to_numpy())
        if result is None:
            result = np.empty((len(wanted), values.shape[1]), np.uint8)
        result[here["place"].to_numpy()] = values
    assert result is not None
    return result


def _read_binary(path: Path, column: str, rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Return the values at `rows` of a binary column whose values are equally long: uint8 (n, length)."""
    with pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        ends = np.cumsum(counts)
        groups = np.searchsorted(ends, rows, side="right")
        parts = []
        for group in np.unique(groups):
            values = file.read_row_group(group, columns=[column]).column(0).combine_chunks()
            matrix = np.frombuffer(values.buffers()[2], np.uint8).reshape(counts[group], -1)
            here = groups == group
            parts.append((np.flatnonzero(here), matrix[rows[here] - (ends[group] - counts[group])]))
    order = np.concatenate([where for where, _ in parts])
    result = np.empty((len(rows), parts[0][1].shape[1]), np.uint8)
    result[order] = np.concatenate([values for _, values in parts])
    return result


def _grouped(images: pl.DataFrame, pairs: Pairs) -> pl.DataFrame:
    """Add `group` and `near_duplicates`, and put the columns in order."""
    ids = images["image_id"]
    smallest = components(len(images), pairs)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    partners = (
        pl.DataFrame({"image_id": ids.gather(both[:, 0]), "near_duplicates": ids.gather(both[:, 1])})
        .sort("image_id", "near_duplicates")
        .group_by("image_id", maintain_order=True)
        .all()
    )
    empty = pl.lit([], pl.List(pl.String))
    return (
        images.with_columns(group=ids.gather(smallest))
        .join(partners, on="image_id", how="left", maintain_order="left")
        .with_columns(pl.col("near_duplicates").fill_null(empty))
        .select(INDEX_SCHEMA.names)
    )


def _write(rows: pl.DataFrame, target: AnyPath) -> str:
    """Write the index and return its data version."""
    table = rows.to_arrow().cast(INDEX_SCHEMA)
    content = ContentHash(INDEX_SCHEMA)
    for batch in table.to_batches():
        content.update(batch)
    with replacing(target) as part:
        pq.write_table(
            table.replace_schema_metadata({_RULE_KEY: RULE}),
            part,
            compression="zstd",
            row_group_size=1 << 17,
            use_dictionary=[
                "label",
                "status",
                "batch",
                "sources.list.element.batch",
                "sources.list.element.label",
            ],
        )
    return content.hexdigest()


def _summarize(rows: pl.DataFrame, version: str) -> IndexSummary:
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
        by_class={name: classes[name] for name in CLASSES if name in classes},
        version=version,
    )
