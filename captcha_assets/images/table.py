"""The image table of a batch: one row per usable image, and one per rejected member beside it.

The archive streams through in chunks, so memory does not grow with it. A large archive is shared
between worker processes that read, decode and describe; this process only writes.
"""

import os
import pickle
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.archive_reader import list_members
from captcha_assets.images.content_hash import HASH_KEY, ContentHash, content_hash
from captcha_assets.images.ingest_worker import Chunk, arrow_array, chunk_size, read_chunks

__all__ = [
    "COLUMN_DESCRIPTIONS",
    "IMAGE_TABLE_SCHEMA",
    "REJECTED_SCHEMA",
    "IngestError",
    "IngestSummary",
    "build_image_table",
    "content_hash",
]

#: Archives with fewer members are read by this process alone: a worker takes half a second to start.
WORTH_WORKERS = 8_000

#: More workers than this only wait for the one that writes.
MOST_WORKERS = 8

_TEXT, _REAL = pa.string(), pa.float32()
IMAGE_TABLE_SCHEMA = pa.schema(
    [
        pa.field("image_id", _TEXT, nullable=False),
        pa.field("batch", _TEXT, nullable=False),
        pa.field("member", _TEXT, nullable=False),
        pa.field("label", _TEXT, nullable=False),
        pa.field("pixels", pa.binary(), nullable=False),
        pa.field("signature", pa.binary(), nullable=False),
        pa.field("descriptors", pa.binary(), nullable=False),
        pa.field("dhash", pa.uint64(), nullable=False),
        pa.field("brightness", _REAL, nullable=False),
        pa.field("contrast", _REAL, nullable=False),
        pa.field("foreground_fraction", _REAL, nullable=False),
        pa.field("source_mode", _TEXT, nullable=False),
        pa.field("file_bytes", pa.int32(), nullable=False),
        pa.field("file_hash", _TEXT, nullable=False),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [pa.field(name, _TEXT, nullable=False) for name in ("batch", "member", "reason", "detail")]
)

_REPETITIVE = {"batch", "label", "source_mode", "reason"}
_BINARY = {"pixels", "signature", "descriptors"}

#: Of both tables.
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "image_id": "The image's identity: hash of its pixels and size, 32 hex digits.",
    "batch": "The batch that brought it.",
    "member": "Path within the delivered archive.",
    "label": "The class that its path states.",
    "pixels": "Row by row, a byte for each gray value (0 is black), or three for red, green, blue.",
    "signature": "12 by 5 uint32 buckets: images of a class that share one are a candidate pair.",
    "descriptors": "Low frequencies of the image and of it shifted by a pixel, int8: alike in copies.",
    "dhash": "Difference hash of a 9x8 thumbnail.",
    "brightness": "Mean gray value, 0 to 255.",
    "contrast": "Standard deviation of the gray values.",
    "foreground_fraction": "Share of pixels darker than the middle of the scale, 0 to 1.",
    "source_mode": "Colour mode found in the file; anything but the data set's own was converted.",
    "file_bytes": "Size of the delivered file.",
    "file_hash": "Hash of the delivered file's bytes, 32 hex digits.",
    "reason": "Why it cannot be used, machine-readable.",
    "detail": "Why it cannot be used, in words.",
}


class IngestError(RuntimeError):
    """A batch could not be read to its end for a reason that lies outside it."""


@dataclass(frozen=True)
class IngestSummary:
    """The counts of a batch after ingestion.

    Attributes:
        images: rows of the image table.
        rejected: rows of the table of rejected members.
        duplicates_within: images whose pixels stand in the batch already.
        rejected_by_reason: number of members per reason, most frequent first.
        images_by_class: number of images of each class that occurs, in the order of the classes.
        converted: images whose file has another colour mode than the data set.
        ignored: folders and operating system clutter that were passed over.
        table_version: data version of the image table.
        rejected_version: data version of the table of rejected members.
    """

    images: int
    rejected: int
    duplicates_within: int
    rejected_by_reason: dict[str, int]
    images_by_class: dict[str, int]
    converted: int
    ignored: int
    table_version: str
    rejected_version: str


def build_image_table(
    archive: Path,
    batch: str,
    table: AnyPath,
    rejected: AnyPath,
    spec: DatasetSpec,
    *,
    processes: int | None = None,
) -> IngestSummary:
    """Turn a zip archive into the two tables, each complete or absent.

    Args:
        archive: the zip file.
        batch: the batch's name, written into every row.
        table: where the image table goes.
        rejected: where the table of rejected members goes.
        spec: what its images look like and how they are labelled.
        processes: worker processes; 0 reads in this one. Default: one per processor for a large
            archive, none for a small one. The result is the same.

    Raises:
        ArchiveError: nothing in the archive can be read.
        IngestError: a worker process died.
    """
    listing = list_members(archive, spec.largest_file)
    entries, size = listing.entries, chunk_size(spec)
    chunks = [entries[start : start + size] for start in range(0, len(entries), size)]
    tally = _Tally(listing.ignored, spec)
    processes = _processes(len(entries)) if processes is None else min(processes, len(chunks))
    del listing, entries
    with replacing(table) as table_part, replacing(rejected) as rejected_part:
        with (
            TableWriter(table_part, IMAGE_TABLE_SCHEMA) as images,
            TableWriter(rejected_part, REJECTED_SCHEMA) as rejects,
        ):
            for rows in _rows(archive, chunks, spec, processes):
                good, bad = _divide(rows, batch)
                images.write(good)
                rejects.write(bad)
                tally.add(good, bad)
        return tally.summary(images.version, rejects.version)


def _processes(members: int) -> int:
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS) if members >= WORTH_WORKERS else 0


def _rows(archive: Path, chunks: list[Chunk], spec: DatasetSpec, processes: int) -> Iterator[pa.RecordBatch]:
    if processes == 0:
        yield from read_chunks(archive, chunks, spec)
        return
    with ExitStack() as stack:
        shares = (chunks[start::processes] for start in range(processes))
        workers = [stack.enter_context(_Worker(archive, share, spec)) for share in shares]
        total = len(chunks)
        chunks.clear()  # the workers have them now
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        # each worker is asked for its next chunk as soon as its last one is taken, and waits at most
        # one chunk ahead: memory stays bounded and the order is the archive's
        asked: deque[Future[pa.RecordBatch]] = deque(pool.submit(worker.next) for worker in workers)
        for number in range(total):
            yield asked.popleft().result()
            if number + processes < total:
                asked.append(pool.submit(workers[number % processes].next))


class _Worker:
    """A process that reads its share of the chunks; it does not outlive the block that it is used in.

    `concurrent.futures.ProcessPoolExecutor` is no substitute: its workers live on when this process is
    killed, because each of them holds the pipe open that it waits on.
    """

    def __init__(self, archive: Path, share: list[Chunk], spec: DatasetSpec) -> None:
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "captcha_assets.images.ingest_worker"]
        # there is a worker per processor already: more threads of each would only wait for each other
        single = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
        environment = {**os.environ, **single, "PYTHONPATH": path}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        self._work = pickle.dumps((archive, share, spec), pickle.HIGHEST_PROTOCOL)
        self._stream: pa.ipc.RecordBatchStreamReader | None = None

    def next(self) -> pa.RecordBatch:
        """Return the rows of its next chunk."""
        try:
            if self._stream is None:
                self._start()
            assert self._stream
            return self._stream.read_next_batch()
        except (BrokenPipeError, StopIteration, pa.ArrowInvalid) as error:
            status = self._process.wait()
            raise IngestError(
                f"a process that read the archive ended with status {status} before it was done: "
                "see its last output above, or the system's log where it was killed for memory"
            ) from error

    def _start(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        with self._process.stdin as pipe:
            pipe.write(self._work)
        self._work = b""
        self._stream = pa.ipc.open_stream(pa.PythonFile(self._process.stdout))

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def _divide(rows: pa.RecordBatch, batch: str) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Split rows into those of the image table and those of the rejected members."""
    usable = pc.is_null(rows["reason"])
    return _as(IMAGE_TABLE_SCHEMA, _where(rows, usable), batch), _as(
        REJECTED_SCHEMA, _where(rows, pc.invert(usable)), batch
    )


def _where(rows: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    return rows if mask.true_count == len(rows) else rows.filter(mask)


def _as(schema: pa.Schema, rows: pa.RecordBatch, batch: str) -> pa.RecordBatch:
    name = arrow_array([batch] * len(rows), pa.string())
    arrays = [name if field.name == "batch" else rows[field.name] for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class TableWriter:
    """Writes a table batch by batch and hashes its content on the way."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        names = schema.names
        self._file = pq.ParquetWriter(
            path,
            schema,
            # photographs' grain hardly compresses: a sixth, at several times the cost of reading it
            compression={name: "none" if name in _BINARY else "zstd" for name in names},
            use_dictionary=[name for name in names if name in _REPETITIVE],
            write_statistics=[name for name in names if name not in _BINARY],
        )
        self._content = ContentHash(schema)

    def write(self, rows: pa.RecordBatch) -> None:
        """Append the next rows as a row group."""
        if len(rows):
            self._file.write_batch(rows)
            self._content.update(rows)

    @property
    def version(self) -> str:
        """Data version of what has been written."""
        return self._content.hexdigest()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.add_key_value_metadata({HASH_KEY: self.version})
        self._file.close()


class _Tally:
    """Counts what the summary says, chunk by chunk."""

    def __init__(self, ignored: int, spec: DatasetSpec) -> None:
        self._ignored, self._dataset = ignored, spec
        self._ids: list[npt.NDArray[np.bytes_]] = []
        self._reasons: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._converted = 0

    def add(self, good: pa.RecordBatch, bad: pa.RecordBatch) -> None:
        self._ids.append(np.array(good["image_id"].to_pylist(), "S32"))
        self._labels.update(_counts(good["label"]))
        self._reasons.update(_counts(bad["reason"]))
        modes, own = _counts(good["source_mode"]), self._dataset.mode
        self._converted += sum(number for mode, number in modes.items() if mode != own)

    def summary(self, table_version: str, rejected_version: str) -> IngestSummary:
        ids = np.concatenate(self._ids)
        reasons = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        return IngestSummary(
            images=len(ids),
            rejected=self._reasons.total(),
            duplicates_within=len(ids) - len(np.unique(ids)),
            rejected_by_reason=dict(reasons),
            images_by_class={
                name: self._labels[name] for name in self._dataset.classes if name in self._labels
            },
            converted=self._converted,
            ignored=self._ignored,
            table_version=table_version,
            rejected_version=rejected_version,
        )


def _counts(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
