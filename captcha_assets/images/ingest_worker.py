"""From members of a batch to rows: what one worker does with a chunk of them.

Run as a module it is such a worker: it takes its share of the chunks from standard input and writes
one Arrow record batch per chunk to standard output. It ends with the process that started it: its next write
fails.
"""

import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from captcha_assets.dataset import DatasetSpec, LabelError
from captcha_assets.images.archive_reader import ArchiveReader, Entry
from captcha_assets.images.decode import decode
from captcha_assets.images.features import (
    Statistics,
    descriptors,
    dhash,
    image_id,
    rounded,
    signatures,
    thumbnails,
)
from captcha_assets.images.rejection import Reason, Rejection

#: Most members of a chunk, and rows of a row group ...
CHUNK = 2048
#: ... and most bytes of their pixels.
_CHUNK_BYTES = 4 << 20

#: A row per member; `reason` and `detail` are null for usable images, the rest for rejected members.
ROW_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("member", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("pixels", pa.binary()),
        pa.field("signature", pa.binary()),
        pa.field("descriptors", pa.binary()),
        pa.field("dhash", pa.uint64()),
        pa.field("brightness", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("foreground_fraction", pa.float32()),
        pa.field("source_mode", pa.string()),
        pa.field("file_bytes", pa.int32()),
        pa.field("file_hash", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)

Chunk = list[Entry]


def chunk_size(spec: DatasetSpec) -> int:
    """Return how many members of a batch are read at once."""
    return max(1, min(CHUNK, _CHUNK_BYTES // spec.pixel_bytes))


class _Rejections:
    """Reasons and details of the rejected members of one chunk, by position."""

    def __init__(self, size: int) -> None:
        self.reasons: list[str | None] = [None] * size
        self.details: list[str | None] = [None] * size

    def add(self, position: int, reason: Reason, detail: str) -> None:
        self.reasons[position], self.details[position] = str(reason), detail


def read_chunk(reader: ArchiveReader, chunk: Chunk, spec: DatasetSpec) -> pa.RecordBatch:
    """Read, decode and describe the members of one chunk: one row each, in their order."""
    size = len(chunk)
    pixels = np.zeros((size, *spec.shape), np.uint8)
    rejections = _Rejections(size)
    labels: list[str | None] = [None] * size
    modes: list[str | None] = [None] * size
    hashes: list[str | None] = [None] * size
    sizes = np.zeros(size, np.int32)
    for position, entry in enumerate(chunk):
        try:
            data = reader.read(entry)
            pixels[position], modes[position] = decode(data, spec)
            labels[position] = spec.label_of(entry.name)
        except Rejection as rejection:
            rejections.add(position, rejection.reason, rejection.detail)
        except LabelError as error:
            rejections.add(position, Reason.BAD_LABEL, str(error))
        else:
            hashes[position] = xxhash.xxh3_128_hexdigest(data)
            sizes[position] = len(data)
    found = {"member": [entry.name for entry in chunk], "label": labels, "source_mode": modes}
    return _assemble(pixels, rejections, {**found, "file_bytes": sizes, "file_hash": hashes})


def _assemble(
    pixels: npt.NDArray[np.uint8], rejections: _Rejections, found: dict[str, object]
) -> pa.RecordBatch:
    statistics, small = Statistics(pixels), thumbnails(pixels)
    described = descriptors(small)
    for position in np.flatnonzero(statistics.blank):
        if rejections.reasons[position] is None:
            value = pixels[position, 0, 0].tolist()
            rejections.add(int(position), Reason.BLANK, f"every pixel has the value {value}")
    columns = {
        **found,
        "image_id": [image_id(image) for image in pixels],
        "pixels": binary_array(pixels),
        "signature": binary_array(signatures(described)),
        "descriptors": binary_array(rounded(described)),
        "dhash": dhash(small),
        "brightness": statistics.brightness,
        "contrast": statistics.contrast,
        "foreground_fraction": statistics.foreground_fraction,
        "reason": rejections.reasons,
        "detail": rejections.details,
    }
    arrays = [arrow_array(columns[field.name], field.type) for field in ROW_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=ROW_SCHEMA)


# pyarrow's own `pa.array` imports pandas at its first call, which takes as long as 40,000 images: arrays
# are built from their buffers instead.


def arrow_array(values: Any, data_type: pa.DataType) -> pa.Array:
    """Return an array of numbers (a numpy array), of strings (a list, None for null), or `values` itself."""
    if isinstance(values, pa.Array):
        return values
    if isinstance(values, np.ndarray):
        return pa.Array.from_buffers(data_type, len(values), [None, pa.py_buffer(values)])
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    valid = np.packbits(np.array([value is not None for value in values], bool), bitorder="little")
    buffers = [valid, offsets, b"".join(encoded)]
    return pa.Array.from_buffers(data_type, len(values), list(map(pa.py_buffer, buffers)))


def binary_array(rows: npt.NDArray[Any]) -> pa.Array:
    """Return a binary array of the bytes of each row."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * (rows.nbytes // max(len(rows), 1))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.binary(), len(rows), buffers)


def read_chunks(archive: Path, chunks: list[Chunk], spec: DatasetSpec) -> Iterator[pa.RecordBatch]:
    """Read chunk after chunk of one archive, and empty the list on the way."""
    reader = ArchiveReader(archive)
    chunks.reverse()
    try:
        while chunks:
            yield read_chunk(reader, chunks.pop(), spec)
    finally:
        reader.close()


def main() -> int:
    """Serve as a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent process handles them
    # the parent process alone writes here: this is how it hands over work
    archive, chunks, spec = pickle.load(sys.stdin.buffer)  # noqa: S301
    try:
        with pa.ipc.new_stream(pa.PythonFile(sys.stdout.buffer), ROW_SCHEMA) as stream:
            for batch in read_chunks(archive, chunks, spec):
                stream.write_batch(batch)
                sys.stdout.buffer.flush()
    except BrokenPipeError:
        return 1  # the process that wanted the rows is gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
