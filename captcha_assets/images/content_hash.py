"""The data version of a table: a hash of what it says, not of how it is stored."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from captcha_assets.atomic_files import AnyPath, fetched


class ContentHash:
    """Collects the hash of a table while its rows pass by.

    Neither compression nor the division into batches or row groups matters; names, types, order of
    columns and rows do.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = [(field.name, _kind(field.type)) for field in schema]
        self._columns: dict[str, xxhash.xxh3_128] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows."""
        for (name, _), column in zip(self._schema, batch.columns, strict=True):
            for part, data in _parts(name, column):
                self._columns.setdefault(part, xxhash.xxh3_128()).update(data)

    def hexdigest(self) -> str:
        """Return the hash of all rows so far: 32 hex digits."""
        total = xxhash.xxh3_128(repr(self._schema).encode())
        for part, column in sorted(self._columns.items()):
            total.update(part.encode())
            total.update(column.digest())
        return total.hexdigest()


#: Metadata of a Parquet file: its content hash, where its writer knew it.
HASH_KEY = b"content_hash"


def table_version(path: Path) -> str:
    """Return the content hash of a local Parquet table, as its writer noted it, or computed."""
    noted = (pq.read_metadata(path).metadata or {}).get(HASH_KEY)
    return noted.decode() if noted else _hash_of(path)


def content_hash(path: AnyPath) -> str:
    """Return the data version of the Parquet table at `path`: 32 hex digits."""
    with fetched(path) as local:
        return _hash_of(Path(local))


def _hash_of(path: Path) -> str:
    with pq.ParquetFile(path) as file:
        content = ContentHash(file.schema_arrow)
        for batch in file.iter_batches(batch_size=16384):
            content.update(batch)
    return content.hexdigest()


def _kind(data_type: pa.DataType) -> str:
    """Name a type by what it holds: the several ways to store a string are one."""
    if pa.types.is_struct(data_type):
        return "struct<" + ",".join(f"{field.name}:{_kind(field.type)}" for field in data_type.fields) + ">"
    if _is_list(data_type):
        return f"list<{_kind(data_type.value_type)}>"
    if pa.types.is_dictionary(data_type):
        return _kind(data_type.value_type)
    return str(data_type).replace("large_", "").replace("_view", "")


def _is_list(data_type: pa.DataType) -> bool:
    return pa.types.is_list(data_type) or pa.types.is_large_list(data_type)


def _parts(name: str, column: pa.Array) -> Iterator[tuple[str, bytes | memoryview]]:
    """Take a column apart into named runs of bytes that say everything about it."""
    data_type = column.type
    if pa.types.is_dictionary(data_type):
        yield from _parts(name, column.dictionary_decode())
    elif _is_list(data_type):
        yield name, _lengths(pc.list_value_length(column))
        yield from _parts(f"{name}[]", column.flatten())
    elif pa.types.is_struct(data_type):
        yield name, _validity(column)
        for field, values in zip(data_type.fields, column.flatten(), strict=True):
            yield from _parts(f"{name}.{field.name}", values)
    elif _kind(data_type) in {"string", "binary"}:
        yield name, _lengths(pc.binary_length(column.cast(pa.large_binary())))
        yield f"{name} bytes", _text(column)
    else:
        yield f"{name} valid", _validity(column)
        yield name, _numbers(column)


# pyarrow's own `to_numpy` and `fill_null` import pandas, which takes longer than all the rest: numbers are
# taken from their buffers instead.


def _numbers(column: pa.Array) -> memoryview:
    """Return the bytes of an array of numbers; 0 for null."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    width = column.type.bit_width // 8
    data = column.buffers()[1]
    values = np.frombuffer(data or b"", f"V{width}")[column.offset : column.offset + len(column)]
    if column.null_count:
        values = np.where(np.frombuffer(_validity(column), bool), values, np.zeros((), values.dtype))
    return np.ascontiguousarray(values).view(np.uint8).data


def _validity(column: pa.Array) -> bytes:
    return bytes(_numbers(column.is_valid())) if column.null_count else b"\1" * len(column)


def _lengths(lengths: pa.Array) -> memoryview:
    """Return lengths as int64; -1 for null."""
    wide = np.frombuffer(_numbers(lengths.cast(pa.int64())), np.int64)
    return np.where(np.frombuffer(_validity(lengths), bool), wide, -1).view(np.uint8).data


def _text(column: pa.Array) -> bytes | memoryview:
    values = column.drop_null().cast(pa.large_binary())
    _, offsets, data = values.buffers()
    if len(values) == 0 or data is None:
        return b""
    bounds = np.frombuffer(offsets, np.int64)[[values.offset, values.offset + len(values)]]
    return memoryview(data)[bounds[0] : bounds[1]]
