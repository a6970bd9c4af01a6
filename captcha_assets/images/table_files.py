"""Data frames as tables with a data version, and what is asked of them more than once."""

from collections.abc import Collection
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


def write_frame(
    frame: pl.DataFrame,
    schema: pa.Schema,
    target: AnyPath,
    repetitive: list[str],
    metadata: dict[bytes, str] | None = None,
) -> str:
    """Write a data frame as Parquet, complete or not at all, and return its data version.

    Args:
        frame: columns in the order of `schema`.
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
        for rows in frame.iter_slices(_ROWS_AT_ONCE):  # a copy of all of it would double the memory
            for batch in rows.to_arrow().cast(schema).combine_chunks().to_batches():
                content.update(batch)
                file.write_batch(batch.replace_schema_metadata(metadata))
    return content.hexdigest()


def repeated(values: pl.Series) -> pl.Series:
    """Say of each value whether it stands there more than once; quick where hardly any does."""
    suspects = values.hash().is_duplicated().arg_true()
    result = np.zeros(len(values), bool)
    result[suspects.to_numpy()] = values.gather(suspects).is_duplicated().to_numpy()
    return pl.Series(result)
