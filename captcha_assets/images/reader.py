"""The images of a split as arrays, straight from the Parquet tables. Needs pyarrow and numpy only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")
_SPLIT_COLUMNS = ["image_id", "label", "split", "batch"]
_PIXELS = ["image_id", "batch", "pixels"]


class ReaderError(ValueError):
    """Tables that do not hold what was asked of them; the message names the file and what to do."""


@dataclass(frozen=True)
class SplitImages:
    """Images of one split, in order of `image_id`; position *i* of every field is one image."""

    image_ids: NDArray[np.str_]
    """Identities, 32 hex digits each."""
    pixels: NDArray[np.uint8]
    """(N, height, width) in gray or (N, height, width, 3) in RGB, writable."""
    labels: NDArray[np.int64]
    """Positions in `classes`."""
    batches: NDArray[np.object_]
    """The batch that each image's pixels were taken from."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_ids)


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns)
    except FileNotFoundError as error:
        raise ReaderError(f"{path} does not exist: materialize it first") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ReaderError(f"{path} cannot be read as Parquet: {error}") from error


def _checked(path: Path, columns: list[str]) -> pa.Table:
    table = _read(path, columns)
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        raise ReaderError(f"{path} lacks the columns {', '.join(missing)}: materialize it again")
    return table


def _in_split(splits: Path, split: str | None, sample_size: int | None) -> pa.Table:
    """Return the images of the sample in `split`, in order of `image_id`."""
    table = _checked(splits, _SPLIT_COLUMNS)
    table = table.filter(pc.is_valid(table["split"])).sort_by("image_id").combine_chunks()
    if sample_size is not None and sample_size < table.num_rows:
        chosen = np.argsort(sample_keys(table), kind="stable")[:sample_size]
        table = table.take(pa.array(np.sort(chosen)))
    if split is not None:
        table = table.filter(pc.equal(table["split"], split))
    return table.combine_chunks()


def sample_keys(splits: pa.Table) -> NDArray[np.float64]:
    """Return what a sample is chosen by: the images with the smallest keys are a stratified sample.

    The images of each split and class are spread evenly over [0, 1).

    Args:
        splits: `split` and `label` of images that have a split, in order of `image_id`.

    Returns:
        float64 (n,).
    """
    kinds = pc.binary_join_element_wise(*(splits[name].cast(pa.string()) for name in ("split", "label")), "/")
    stratum = kinds.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    sizes = np.bincount(stratum)
    order = np.argsort(stratum, kind="stable")
    place = np.empty(len(stratum))
    place[order] = np.arange(len(stratum)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keys: NDArray[np.float64] = (place + 0.5) / sizes[stratum]
    return keys


def _key(table: pa.Table) -> pa.Array:
    """Return batch and image id joined: what one image is called within the tables."""
    key = pc.binary_join_element_wise(
        table["batch"].cast(pa.string()), table["image_id"].cast(pa.string()), "/"
    )
    return key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key


def _matrix(pixels: pa.ChunkedArray, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a view of a binary column as (N, *shape)."""
    size = math.prod(shape)
    flat = pa.concat_arrays(pixels.cast(pa.large_binary()).chunks)
    if not pc.all(pc.equal(pc.binary_length(flat), size), min_count=0).as_py():
        raise ReaderError(f"{path} holds images that are not {size:,} bytes long: materialize it again")
    offsets = np.frombuffer(flat.buffers()[1], np.int64)
    start = int(offsets[flat.offset])
    data = np.frombuffer(flat.buffers()[2], np.uint8, len(flat) * size, start)
    return data.reshape(-1, *shape)


def _fill(path: Path, wanted: pa.Array, pixels: NDArray[np.uint8], found: NDArray[np.bool_]) -> None:
    """Copy what the table at `path` holds of the `wanted` images into `pixels` and mark it as `found`."""
    table = _checked(path, _PIXELS)
    if table.num_rows == 0:
        return
    source = pc.index_in(wanted, value_set=_key(table))
    here = source.is_valid().to_numpy(zero_copy_only=False) & ~found
    rows = source.fill_null(0).to_numpy(zero_copy_only=False)
    pixels[here] = _matrix(table["pixels"], path, pixels.shape[1:])[rows[here]]
    found |= here


def _labels(column: pa.ChunkedArray, classes: Sequence[str], splits: Path) -> NDArray[np.int64]:
    positions = pc.index_in(column.cast(pa.string()), value_set=pa.array(list(classes), pa.string()))
    if positions.null_count:
        unknown = sorted(map(str, set(column.to_pylist()) - set(classes)))
        raise ReaderError(f"{splits} holds labels that are no class: {', '.join(unknown)}")
    return positions.to_numpy().astype(np.int64)


def read_split(
    tables: Sequence[Path],
    splits: Path,
    split: str | None,
    sample_size: int | None = None,
    *,
    classes: Sequence[str],
    shape: tuple[int, ...],
) -> SplitImages:
    """Read the images of a split. The same tables give the same arrays.

    Args:
        tables: the `image_table` files of the batches; an image's pixels come from the table of the
            batch that `splits` names.
        splits: the `splits` file.
        split: "train", "validation", "test", or None for all images that have a split.
        sample_size: take only the stratified sample of so many images (over all splits); the
            larger sample contains the smaller one.
        classes: the classes in the model's order.
        shape: of an image: (height, width), or (height, width, 3) in RGB.

    Raises:
        ReaderError: a file is missing or damaged, an image's pixels are in none of the tables, a label
            is no class, or an argument is out of range.
    """
    if split is not None and split not in SPLITS:
        raise ReaderError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if sample_size is not None and sample_size < 1:
        raise ReaderError(f"sample_size is {sample_size}: it must be 1 or more, or None for all")
    rows = _in_split(splits, split, sample_size)
    pixels = np.zeros((rows.num_rows, *shape), np.uint8)
    found = np.zeros(rows.num_rows, bool)
    for path in tables:
        _fill(path, _key(rows), pixels, found)
    if not found.all():
        example = rows["image_id"][int(np.argmin(found))].as_py()
        raise ReaderError(
            f"{int((~found).sum())} images of {splits} are in none of the {len(tables)} image tables "
            f"(the first: {example}): the tables and the splits are not of one state, materialize the splits"
        )
    return SplitImages(
        image_ids=np.array(rows["image_id"].to_pylist(), np.str_),
        pixels=pixels,
        labels=_labels(rows["label"], classes, splits),
        batches=np.array(rows["batch"].to_pylist(), object),
        classes=tuple(classes),
    )
