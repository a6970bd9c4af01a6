"""Data frames as tables with a data version, and what is asked of them more than once."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.images.content_hash import ContentHash

_ROWS_AT_ONCE = 1 << 17


class MissingTableError(FileNotFoundError):
    """A table that is not there; the message says how it is materialized."""


def require_table(path: AnyPath) -> AnyPath:
    """Return `path`, where a table has to be.

    Raises:
        MissingTableError: there is none.
    """
    if not path.exists():
        raise MissingTableError(f"{path} is missing: materialize it again with captcha-assets update")
    return path


class StaleTableError(ValueError):
    """A table that another version of the code wrote; the message says how it is materialized again."""


def require_columns(path: Path, columns: Collection[str]) -> Path:
    """Return `path`, a local Parquet file, where it has these columns.

    Raises:
        StaleTableError: it lacks some.
    """
    lacking = [name for name in columns if name not in pq.read_schema(path).names]
    if lacking:
        raise StaleTableError(
            f"{path} was written by another version of the code, without {', '.join(lacking)}: materialize "
            "it again with captcha-assets update"
        )
    return path


def polars_schema(schema: pa.Schema) -> pl.Schema:
    """Return the columns and types of a table as Polars names them."""
    return pl.DataFrame(schema.empty_table()).schema


def scan_tables(files: Sequence[AnyPath], schema: pa.Schema) -> pl.LazyFrame:
    """Return the rows of several Parquet files, some of them written by an earlier version of the code.

    Args:
        files: one after the other, as the partitions of an asset.
        schema: of the version of now. A column that a file lacks is empty in its rows; one that is no more is
            left out; numbers are widened.

    Raises:
        polars.exceptions.SchemaError: on collecting, where a column has become another kind of value.
    """
    types = polars_schema(schema)
    if not files:
        return pl.LazyFrame(schema=types)
    return pl.scan_parquet(
        [str(file) for file in files],
        glob=False,
        schema=types,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
    )


def write_frame(
    frame: pl.DataFrame,
    schema: pa.Schema,
    target: AnyPath,
    repetitive: list[str],
    metadata: dict[bytes, str] | None = None,
) -> str:
    """Write a data frame as Parquet, as `write_frames` does."""
    return write_frames([frame], schema, target, repetitive, metadata)


def write_frames(
    frames: Iterable[pl.DataFrame],
    schema: pa.Schema,
    target: AnyPath,
    repetitive: list[str],
    metadata: dict[bytes, str] | None = None,
) -> str:
    """Write data frames one after the other as Parquet, complete or not at all; return the data version.

    Args:
        frames: columns in the order of `schema`.
        schema: what is stored.
        target: where it goes.
        repetitive: columns of few different values, as Parquet names them.
        metadata: of the file; no part of its content.
    """
    content = ContentHash(schema)
    stored = schema.with_metadata(metadata)
    with (
        replacing(target) as part,
        pq.ParquetWriter(part, stored, compression="zstd", use_dictionary=repetitive) as file,
    ):
        for rows in _slices(frames):  # a copy of all of it would double the memory
            for batch in rows.to_arrow().cast(schema).combine_chunks().to_batches():
                content.update(batch)
                file.write_batch(batch.replace_schema_metadata(metadata))
    return content.hexdigest()


def _slices(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    for frame in frames:
        yield from frame.iter_slices(_ROWS_AT_ONCE)


def repeated(values: pl.Series) -> pl.Series:
    """Say of each value whether it stands there more than once; quick where hardly any does, or in order."""
    if values.null_count() == 0 and values.is_sorted():
        as_before = (values == values.shift(1)).fill_null(value=False)
        return as_before | as_before.shift(-1, fill_value=False)
    suspects = values.hash().is_duplicated().arg_true()
    result = np.zeros(len(values), bool)
    result[suspects.to_numpy()] = values.gather(suspects).is_duplicated().to_numpy()
    return pl.Series(result)


def shares_group(rows: pl.DataFrame) -> pl.Series:
    """Say of each row with `image_id` and `group` whether its group stands there more than once.

    Nearly all images are alone, and their groups are named after them.
    """
    image_id, group = rows["image_id"], rows["group"]
    suspects = group.is_in(group.filter(group.ne_missing(image_id) | repeated(image_id)).unique().implode())
    places = suspects.fill_null(value=True).arg_true()
    result = np.zeros(len(rows), bool)
    result[places.to_numpy()] = group.gather(places).is_duplicated().to_numpy()
    return pl.Series(result)
