"""The record of the split assignments: which image has which split, once and for ever.

The record is data, tracked by DVC with the archives: a folder of Parquet files that are never changed. Each
update that assigns a split to new images adds one file, `<round>-<content hash>.parquet`: rounds count from
1, and the hash lets the files of two machines lie side by side after a merge. Nothing leaves the record, so
that an image that was removed, quarantined or in conflict has its split when it comes back.

*When* an image got its split is said by the round, not by a clock: the same batches then give the same
bytes on every machine, and `dvc status` of a fresh clone is clean. The time of each round is that of the
materialization of `splits` in Dagster.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets import locks
from captcha_assets.atomic_files import AnyPath, create, fetched, move, raise_if_passing
from captcha_assets.images.content_hash import ContentHash
from captcha_assets.images.table_files import repeated, write_frame
from captcha_assets.paths import Paths, how_to_restore

ASSIGNMENTS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.binary(16), nullable=False),  # the hash itself: half as long as its digits
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("batch", pa.string(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
    ]
)
_REPETITIVE = ["split", "label", "batch", "round"]
_COLUMNS = {"image_id": pl.String, "split": pl.String, "label": pl.String, "batch": pl.String}
_SCHEMA = {**_COLUMNS, "round": pl.Int32, "contradicted": pl.Boolean}
_FILE = re.compile(r"(\d+)-([0-9a-f]{32})\.parquet")

GO_ON = "or continue without it (docs/quality.md, Splits)"


class AssignmentError(ValueError):
    """Split assignments that are lost or damaged; the message says how to restore them."""


def no_assignments() -> pl.DataFrame:
    """Return a record that holds nothing."""
    return pl.DataFrame(schema=_SCHEMA)


@dataclass(frozen=True)
class AssignmentRecord:
    """Where the record lies.

    Attributes:
        folder: its files, among what DVC tracks.
        scratch: where files are written, so that `folder` holds complete files at every moment.
        exclusive: returns the lock that lets one process at a time assign splits; default a locked file of
            `scratch`.
    """

    folder: AnyPath
    scratch: Path
    exclusive: Callable[[], AbstractContextManager[None]] | None = None

    @classmethod
    def of(cls, paths: Paths) -> "AssignmentRecord":
        """Return the record of a home."""
        return cls(paths.split_assignments, paths.scratch, partial(locks.exclusive, paths, "_splits"))

    @property
    def how_to_restore(self) -> str:
        """How a record that is lost comes back, in words."""
        return _restore(self.folder)

    def files(self) -> list[str]:
        """Return the names of its files, in order of their rounds.

        Raises:
            AssignmentError: a table lies there that is not named as a file of the record: it may be one.
        """
        found = {path: _FILE.fullmatch(path.name) for path in self.folder.glob("*.parquet")}
        others = sorted(str(path) for path, named in found.items() if named is None)
        if others:
            raise AssignmentError(
                f"{others[0]} is not named as a file of the record of split assignments "
                "(<round>-<hash>.parquet): give it its name again, or move it away"
            )
        return [one[0] for one in sorted(filter(None, found.values()), key=lambda one: (int(one[1]), one[2]))]

    def locked(self) -> AbstractContextManager[None]:
        """Return the lock that lets one process of a home at a time assign splits."""
        return self.exclusive() if self.exclusive else locks.locked_file(self.scratch, "_splits")

    def read(self) -> pl.DataFrame:
        """Return every assignment, a row per image.

        Returns:
            `image_id`, `split`, `label` and `batch` as they were when it was assigned, `round`, and
            `contradicted`: two machines gave it different splits. In order of `image_id`.

        Raises:
            AssignmentError: a file is damaged.
        """
        files = [read_file(self.folder / name) for name in self.files()]
        every = _in_order(files).with_columns(contradicted=pl.lit(value=False))
        again = repeated(every["image_id"])  # hardly ever any: machines that were merged
        if not again.any():
            return every
        are_several = pl.col("image_id").is_in(every["image_id"].filter(again).unique().implode())
        several = pl.concat(file.filter(are_several) for file in files).with_columns(
            contradicted=pl.col("split").n_unique().over("image_id") > 1
        )
        first = several.unique("image_id", keep="first", maintain_order=True)
        return pl.concat([every.filter(~again), first]).sort("image_id")

    def append(self, assigned: pl.DataFrame) -> str | None:
        """Add a file with the assignments of a round, and return its name; None where there is none.

        Args:
            assigned: `image_id`, `split`, `label`, `batch` of images that the record does not hold.
        """
        if assigned.is_empty():
            return None
        names = self.files()
        number = 1 + (int(names[-1].partition("-")[0]) if names else 0)
        rows = assigned.sort("image_id").select(
            pl.col("image_id").str.decode("hex"),
            *("split", "label", "batch"),
            round=pl.lit(number, pl.Int32),
        )
        written = self.scratch / "splits" / f"{number:06d}.parquet"
        version = write_frame(rows, ASSIGNMENTS_SCHEMA, written, _REPETITIVE)
        target = self.folder / f"{number:06d}-{version}.parquet"
        if isinstance(target, Path):
            move(written, target)
        else:  # its name tells its content: where there is one already, it is the same
            create(target, written.read_bytes())
            written.unlink()
        return target.name

    def require(self, expected: Collection[str], known_by: str) -> None:
        """Raise an error if the record lacks files that it once had.

        Args:
            expected: their names.
            known_by: the file or event that names them.

        Raises:
            AssignmentError: some are missing.
        """
        missing = sorted(set(expected) - set(self.files()))
        if missing:
            lost = f"{len(missing)} of {len(expected)} files are missing, {missing[0]} first"
            raise AssignmentError(
                f"split assignments are lost: {lost}, in {self.folder} ({known_by} names them). No image is "
                f"assigned a new split: {self.how_to_restore}, {GO_ON}"
            )


def _in_order(files: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of files, each in order of `image_id`, in this order."""
    nothing = no_assignments().drop("contradicted")
    *small, largest = sorted([nothing, *files], key=len)
    others = pl.concat([nothing, *small])
    return largest.merge_sorted(others.sort("image_id"), "image_id") if len(others) else largest


def read_file(path: AnyPath) -> pl.DataFrame:
    """Return the rows of one file of the record, in order of `image_id`; its name says what it must hold.

    Raises:
        AssignmentError: it holds something else, or cannot be read.
    """
    content = ContentHash(ASSIGNMENTS_SCHEMA)
    with fetched(path) as local:
        try:
            table = pq.read_table(local)
        except (pa.ArrowException, OSError) as error:
            raise_if_passing(error)
            raise _damaged(path) from None  # the reader's words say less
    for batch in _batches(table):
        content.update(batch)
    if content.hexdigest() not in path.name:
        raise _damaged(path)
    frame = pl.DataFrame(pl.from_arrow(table))
    frame = frame.with_columns(pl.col("image_id").bin.encode("hex"))
    return frame if frame["image_id"].is_sorted() else frame.sort("image_id")


def _batches(table: pa.Table) -> Iterable[pa.RecordBatch]:
    return table.to_batches() if table.schema.equals(ASSIGNMENTS_SCHEMA) else ()


def _damaged(path: AnyPath) -> AssignmentError:
    return AssignmentError(f"{path} is damaged: delete the file, then {_restore(path)}, {GO_ON}")


def _restore(path: AnyPath) -> str:
    return f"restore the record {how_to_restore(path, 'data/splits')}"
