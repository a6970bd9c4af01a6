"""Tables over all batches, in parts: a folder with a Parquet file for each batch that rows are taken from.

`manifest.json` names the files that make up the table, and is written last, as a whole: who reads sees the
old table or the new one. It holds a hash of itself, because the next table is computed from what it says. The
names of the files tell their content, so that a part whose rows stay as they are keeps its file. Files of the
table before stay until the next one is written, for those who still read them; those of a killed writer are
removed then.

The data version is a hash over the batches and the hash of the rows of each, in order of `image_id`: it does
not depend on files, and a table in one file has the same.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from captcha_assets.atomic_files import (
    AnyPath,
    contents,
    fetched,
    json_text,
    locked,
    raise_if_passing,
    regular,
    remove,
    replacing,
)
from captcha_assets.images.content_hash import ContentHash, content_hash
from captcha_assets.images.table_files import MissingTableError, write_frame
from captcha_assets.text_formats import first_line

MANIFEST = "manifest.json"
#: What reading a manifest raises that is none.
_NO_MANIFEST = (
    AttributeError, IsADirectoryError, KeyError, NotADirectoryError, RecursionError, TypeError, ValueError,
)  # fmt: skip
#: The part of a table without rows, whose file says which columns there are.
_NO_BATCH = ""


class DamagedTableError(OSError):
    """A table whose manifest or parts are not what was written; the message names the file."""


@dataclass(frozen=True)
class Part:
    """The rows of a table that are taken from one batch.

    Attributes:
        file: name of its file.
        rows: number of its rows.
        hash: content hash of its rows, in order of `image_id`.
        counts: what its asset counts of it.
        file_hash: XXH3-128 of the bytes of its file, computed in a fraction of the time; empty where an
            earlier version wrote the part.
    """

    file: str
    rows: int
    hash: str
    counts: Any = None
    file_hash: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a table consists of.

    Attributes:
        folder: where it lies.
        version: its data version.
        about: what its asset records of what it was computed from.
        parts: by batch.
    """

    folder: AnyPath
    version: str
    about: Mapping[str, Any]
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows of the table."""
        return sum(part.rows for part in self.parts.values())

    def files(self, batches: Iterable[str] | None = None) -> list[AnyPath]:
        """Return the files of the table, or of some batches, in order of the batches."""
        wanted = self.parts if batches is None else [name for name in sorted(batches) if name in self.parts]
        return [self.folder / self.parts[name].file for name in wanted]

    def scan(self, batches: Iterable[str] | None = None) -> pl.LazyFrame:
        """Open the table, or the rows of some batches; at least one of them is there."""
        return pl.scan_parquet([str(file) for file in self.files(batches)], glob=False)


def read_manifest(folder: AnyPath) -> Manifest:
    """Return what the table in a folder consists of.

    Raises:
        MissingTableError: there is none.
        DamagedTableError: its manifest cannot be read.
    """
    path = folder / MANIFEST
    try:
        values = _checked(json.loads(contents(regular(path)).decode()))
        parts = {name: Part(**part) for name, part in values["parts"].items()}
        return Manifest(folder, values["version"], values["about"], parts)
    except FileNotFoundError:
        raise MissingTableError(
            f"{folder} is missing: materialize it again with captcha-assets update"
        ) from None
    except _NO_MANIFEST as error:
        raise DamagedTableError(f"{path} cannot be read ({error}): materialize the table again") from error


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says, without its checksum.

    Raises:
        ValueError: it is not what was written.
    """
    if values.pop("checksum") != _checksum(values):
        raise ValueError("it does not hold what was written")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    """Return a hash of all that a manifest says: the next table is computed from it."""
    return hashlib.sha256(json_text(values).encode()).hexdigest()


def find_manifest(folder: AnyPath, schema: pa.Schema) -> Manifest | None:
    """Return what the table of this schema in a folder consists of; None where none can be used."""
    try:
        found = read_manifest(folder)
    except (FileNotFoundError, DamagedTableError):
        return None
    hashes = {name: part.hash for name, part in found.parts.items()}
    return found if found.version == _version(schema, hashes) else None


def of_earlier_version(folder: AnyPath) -> AnyPath:
    """Return where versions before this one kept the same table, in one file."""
    return folder.with_name(f"{folder.name}.parquet")


def exists(table: AnyPath) -> bool:
    """Whether a table is there, in parts or in one file, whole or damaged."""
    return _in_one_file(table) is not None or (table / MANIFEST).exists()


def _in_one_file(table: AnyPath) -> AnyPath | None:
    """Return the file that holds all of a table, where one does."""
    if table.is_file():
        return table
    earlier = of_earlier_version(table)
    return earlier if not (table / MANIFEST).exists() and earlier.is_file() else None


def scan(table: AnyPath) -> pl.LazyFrame:
    """Open a table of one moment: a folder of parts, or one file, as a training and earlier versions keep it.

    Raises:
        MissingTableError: there is none.
        DamagedTableError: its manifest cannot be read.
    """
    file = _in_one_file(table)
    return pl.scan_parquet(str(file), glob=False) if file else read_manifest(table).scan()


def version_of(table: AnyPath) -> str:
    """Return the data version of a table, as its manifest states it, or computed from one file.

    Raises:
        MissingTableError: there is none.
        DamagedTableError: its manifest cannot be read.
    """
    file = _in_one_file(table)
    return _version_of_file(file) if file else read_manifest(table).version


def verified_version(folder: Path) -> str:
    """Return the data version of a table, computed from the content of each file.

    Raises:
        DamagedTableError: the manifest says otherwise, or a file is missing.
    """
    manifest = read_manifest(folder)
    for part in manifest.parts.values():
        if not (folder / part.file).is_file():
            there = (folder / part.file).exists()
            raise DamagedTableError(f"{folder / part.file} is {'no regular file' if there else 'missing'}")
        if not _holds(folder / part.file, part):
            raise DamagedTableError(f"{folder / part.file} does not hold what {MANIFEST} says")
    first = next(iter(manifest.parts.values()))
    hashes = {name: part.hash for name, part in manifest.parts.items()}
    if _version(pq.read_schema(folder / first.file), hashes) != manifest.version:
        raise DamagedTableError(f"{folder / MANIFEST} does not name the version of its parts")
    return manifest.version


def _version(schema: pa.Schema, hashes: Mapping[str, str]) -> str:
    """Return the data version of a table from the hash of the rows of each batch."""
    rows = sorted((name, value) for name, value in hashes.items() if name != _NO_BATCH)
    nothing = ContentHash(schema).hexdigest()  # of its columns
    return xxhash.xxh3_128_hexdigest(json.dumps([nothing, rows]).encode())


def _version_of_file(path: AnyPath) -> str:
    with fetched(path) as local:
        try:
            schema = pq.read_schema(local).remove_metadata()
            if "sample_key" in schema.names:  # of a version that had no parts
                return content_hash(local)
            rows = pl.read_parquet(local, glob=False).sort("batch", "image_id")
        except (pa.ArrowInvalid, pl.exceptions.PolarsError) as error:
            raise DamagedTableError(f"{path} is damaged: {first_line(error)}") from error
    hashes = {str(part["batch"][0]): _hash(part, schema) for part in rows.partition_by("batch") if len(part)}
    return _version(schema, hashes)


def _hash(rows: pl.DataFrame, schema: pa.Schema) -> str:
    content = ContentHash(schema)
    for batch in rows.to_arrow().cast(schema).combine_chunks().to_batches():
        content.update(batch)
    return content.hexdigest()


def write_one_file(table: AnyPath, target: Path) -> None:
    """Write a table of one moment into one local file, part after part; it is whole when this returns.

    Raises:
        MissingTableError: there is none.
        DamagedTableError: its manifest cannot be read.
    """
    file = _in_one_file(table)
    writer = None
    for place in [file] if file else read_manifest(table).files():
        with fetched(place) as local:
            rows = pq.read_table(local)
        writer = writer or pq.ParquetWriter(target, rows.schema.remove_metadata(), compression="zstd")
        writer.write_table(rows.replace_schema_metadata(None))
    if writer:
        writer.close()


@dataclass
class WaitingRows:
    """Rows of a table that wait on the disk while others of their batch may come."""

    folder: Path
    _frames: int = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Add rows of any batches."""
        for (batch,), rows in frame.group_by("batch", maintain_order=True):
            (self.folder / str(batch)).mkdir(exist_ok=True)
            rows.write_ipc(self.folder / str(batch) / f"{self._frames:06}.arrow")
        self._frames += 1

    def batches(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield each batch and its rows, in the order in which they came."""
        for folder in sorted(self.folder.iterdir()):
            files = sorted(folder.iterdir())
            yield folder.name, pl.concat(pl.read_ipc(file, memory_map=False) for file in files)


@contextmanager
def waiting_rows() -> Iterator[WaitingRows]:
    """Yield an empty store of rows, which is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="captcha-assets-") as name:
        yield WaitingRows(Path(name))


#: Counts what an asset wants to know of a part.
Count = Callable[[pl.DataFrame], Any]


@dataclass
class Writer:
    """Writes a table part by part; `commit` makes it the table.

    Attributes:
        folder: where the table lies.
        schema: its columns.
        repetitive: columns of few different values, as Parquet names them.
        count: what is counted of each part.
    """

    folder: AnyPath
    schema: pa.Schema
    repetitive: list[str]
    count: Count
    _parts: dict[str, Part] = field(default_factory=dict)

    def keep(self, parts: Mapping[str, Part]) -> None:
        """Take parts of the table before as they are."""
        self._parts |= {name: part for name, part in parts.items() if name != _NO_BATCH}

    def write(self, batch: str, rows: pl.DataFrame) -> None:
        """Write the rows of a batch, in order of `image_id`; a part without rows is left out."""
        self._parts.pop(batch, None)
        if len(rows) or batch == _NO_BATCH:
            rows = rows.select(self.schema.names)
            name = _hash(rows, self.schema)
            target = self.folder / f"{batch or 'no-batch'}-{name}.parquet"
            if not target.exists():
                write_frame(rows, self.schema, target, self.repetitive)
            self._parts[batch] = Part(target.name, len(rows), name, self.count(rows), _file_hash(target))

    def write_all(self, rows: pl.DataFrame) -> None:
        """Write the rows of all batches, in order of `image_id`."""
        for (batch,), some in rows.group_by("batch", maintain_order=True):
            self.write(str(batch), some)

    def replace(self, before: Manifest, old: pl.DataFrame, new: pl.DataFrame) -> None:
        """Write the parts that differ from the table before, and keep the others.

        Args:
            before: the table before.
            old: its rows that are replaced or removed.
            new: the rows that come.
        """
        self.keep(before.parts)
        for batch in pl.concat([old["batch"], new["batch"]]).unique().sort():
            gone, come = (rows.filter(pl.col("batch") == batch) for rows in (old, new))
            stay = come.clear()
            if batch in before.parts:
                stays = ~pl.col("image_id").is_in(gone["image_id"].implode())
                stay = before.scan([batch]).filter(stays).collect()
            self.write(batch, pl.concat([stay, come.select(stay.columns)]).sort("image_id"))

    def commit(self, about: Mapping[str, Any]) -> Manifest:
        """Make the parts the table, as a whole, and return it.

        Args:
            about: what is recorded of what it was computed from.
        """
        if not self._parts:
            self.write(_NO_BATCH, pl.DataFrame(pl.from_arrow(self.schema.empty_table())))
        parts = dict(sorted(self._parts.items()))
        version = _version(self.schema, {name: part.hash for name, part in parts.items()})
        values = {
            "version": version,
            "about": about,
            "parts": {name: vars(part) for name, part in parts.items()},
        }
        text = json_text({**values, "checksum": _checksum(values)})
        target = self.folder / MANIFEST
        if not target.exists() or target.read_text() != text:
            with replacing(target) as written:
                written.write_text(text)
        return Manifest(self.folder, version, about, parts)


@contextmanager
def writing(
    folder: AnyPath, schema: pa.Schema, repetitive: list[str], count: Count
) -> Iterator[tuple[Writer, Manifest | None]]:
    """Yield a writer of a table and the table before, if one can be used; one local writer at a time.

    What lies there of the table before that one, or of a killed writer, is removed first.
    """
    writer = Writer(folder, schema, repetitive, count)
    if not isinstance(folder, Path):
        yield writer, _swept(folder, schema)
        return
    if folder.is_symlink() and not folder.exists():
        raise DamagedTableError(f"{folder} is a link to nothing: mount what it leads to, or remove the link")
    if folder.is_file():  # damaged
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    lock.touch()
    with locked(lock):
        yield writer, _swept(folder, schema)


def _swept(folder: AnyPath, schema: pa.Schema) -> Manifest | None:
    """Remove the files that the manifest does not name; return it where every file that it names is whole.

    A damaged file is removed too: a file of its name counts as written. The manifest of another table counts
    as none.
    """
    manifest = find_manifest(folder, schema)
    parts = {part.file: part for part in manifest.parts.values()} if manifest else {}
    found: list[Any] = list(folder.glob("*.parquet"))
    whole = {file.name for file in found if file.name in parts and _holds(file, parts[file.name])}
    for file in found:
        if file.name not in whole:
            remove(file)
    place = folder / MANIFEST
    if manifest is None and place.exists() and not place.is_file():
        remove(place)
    if isinstance(folder, Path):  # under its lock, none of their writers lives
        for left in folder.glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
    return manifest if whole == set(parts) else None


def _holds(file: AnyPath, part: Part) -> bool:
    """Whether a file is what was written as this part."""
    with fetched(file) as local:
        try:
            regular(local)
            if part.file_hash:
                return _file_hash(local) == part.file_hash
            return content_hash(local) == part.hash
        except (pa.ArrowException, OSError, ValueError) as error:
            raise_if_passing(error)
            return False


def _file_hash(file: AnyPath) -> str:
    """Return the XXH3-128 of the bytes of a file."""
    with fetched(file) as local, Path(local).open("rb") as opened:
        found = xxhash.xxh3_128()
        while block := opened.read(1 << 20):
            found.update(block)
    return found.hexdigest()
