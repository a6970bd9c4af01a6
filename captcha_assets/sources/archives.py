"""The archives of batches: zip files and folders; hashed, copied and packed without loss.

A zip may lie on an object store; a folder may not, since nothing there tells when it is complete. A folder
becomes an archive in one way only, so a folder has a hash too: that of the archive it becomes.
"""

import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.images.archive_reader import ArchiveError, checksums, list_members

if TYPE_CHECKING:
    from upath import UPath

_CHUNK = 1 << 20
#: Archives are packed with this time, so that equal folders make equal bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
#: What a zip's comment can hold; the unreadable files of a packed folder are listed there.
_COMMENT_BYTES = 65_535
#: From so many bytes on, reading them takes seconds, and each tenth is reported.
_LONG = 1 << 30

#: Takes one line at a time that says how far the work is.
Progress = Callable[[str], None]


class BatchError(ValueError):
    """A batch that cannot be had as asked; the message says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Digest:
    """Size in bytes and hashes (hexadecimal) of one file."""

    bytes: int
    sha256: str
    md5: str


@dataclass(frozen=True)
class Unreadable:
    """A file of a folder that could not be packed, and why. `member` is its path in the folder."""

    member: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """What an archive holds: the number of files, and what was missing when its folder was packed."""

    members: int
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True)
class File:
    """A regular file at one moment.

    Attributes:
        member: path within its folder, "" for a lone file.
        size: bytes.
        mtime_ns: time of change.
        etag: what an object store calls its content, "" for a local file.
    """

    member: str
    size: int
    mtime_ns: int
    etag: str = ""


@dataclass(frozen=True)
class Survey:
    """What lay at a place at one moment, without anything having been opened."""

    root: AnyPath
    files: tuple[File, ...]
    unreadable: tuple[Unreadable, ...]
    newest: float

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal hash of all names, sizes and times: equal as long as nothing was touched."""
        lines = (f"{file.member}\0{file.size}\0{file.mtime_ns}{file.etag}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


class _Hashing:
    """A stream that hashes what passes and hands it on; it cannot seek, so zipfile appends only."""

    def __init__(self, out: BinaryIO | None = None, say: Progress | None = None, total: int = 0) -> None:
        self._out, self._say, self._total = out, say, total
        self._size, self._tenths = 0, 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> int:
        self._size += len(data)
        self._sha256.update(data)
        self._md5.update(data)
        if self._out is not None:
            self._out.write(data)
        if self._say is not None and self._total >= _LONG:
            self._report(self._say)
        return len(data)

    def _report(self, say: Progress) -> None:
        tenths = min(10, self._size * 10 // self._total)
        if tenths > self._tenths:
            self._tenths = tenths
            say(f"{tenths * 10} % of {self._total:,} bytes read")

    def flush(self) -> None:
        if self._out is not None:
            self._out.flush()

    def digest(self) -> Digest:
        return Digest(self._size, self._sha256.hexdigest(), self._md5.hexdigest())


def survey(path: AnyPath) -> Survey:
    """List what lies at `path`, a file or a local folder, without opening anything or following links.

    Raises:
        BatchError: it is a folder on an object store.
        OSError: nothing is there, or it cannot be looked at.
    """
    if not isinstance(path, Path):
        return _survey_object(path)
    top = path.stat()
    if not stat.S_ISDIR(top.st_mode):
        return Survey(path, (File("", top.st_size, top.st_mtime_ns),), (), top.st_mtime)
    files: list[File] = []
    unreadable: list[Unreadable] = []
    newest = top.st_mtime
    for member, status in _walk(path, unreadable):
        newest = max(newest, status.st_mtime)
        if stat.S_ISREG(status.st_mode) and _is_utf8(member):
            files.append(File(member, status.st_size, status.st_mtime_ns))
        elif not stat.S_ISDIR(status.st_mode):
            unreadable.append(Unreadable(_printable(member), _problem(status, member)))
    return Survey(path, tuple(sorted(files, key=lambda file: file.member)), tuple(unreadable), newest)


def _survey_object(path: "UPath") -> Survey:
    found = path.fs.info(path.path)
    if found["type"] == "directory":
        raise BatchError(f"{path} is a folder on an object store: give a zip there, or a local folder")
    changed = path.fs.modified(path.path).timestamp()
    etag = str(found.get("ETag") or found.get("etag") or "").strip('"')
    return Survey(path, (File("", found["size"], int(changed) * 10**9, etag),), (), changed)


def _walk(folder: Path, unreadable: list[Unreadable]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path within the folder and status of all that lies below it, folders included."""

    def closed(error: OSError) -> None:
        member = Path(error.filename).relative_to(folder).as_posix()
        unreadable.append(Unreadable(_printable(member), f"folder cannot be listed: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=closed):
        for name in folders + names:
            path = Path(parent, name)
            yield path.relative_to(folder).as_posix(), path.lstat()


def _is_utf8(member: str) -> bool:
    return _printable(member) == member


def _printable(member: str) -> str:
    return member.encode(errors="backslashreplace").decode()


def _problem(status: os.stat_result, member: str) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "symbolic link, not followed"
    return "not a regular file" if _is_utf8(member) else "name is not UTF-8"


def digest_of(path: AnyPath) -> Digest:
    """Hash a file, here or on an object store, or the archive that a local folder would become.

    Raises:
        BatchError: the folder cannot be packed.
        OSError: it cannot be read.
    """
    hashing = _Hashing()
    if isinstance(path, Path) and path.is_dir():
        _pack(path, survey(path), hashing)
    else:
        _pour(path, hashing)
    return hashing.digest()


def identify(path: AnyPath, say: Progress | None = None) -> tuple[Digest, str]:
    """Hash what lies at `path`, as `digest_of` does, and return the fingerprint of what was read too.

    Args:
        path: a file or a folder.
        say: is handed a line for each tenth of a large one.

    Raises:
        BatchError: it changed meanwhile, or the folder cannot be packed.
        OSError: it cannot be read.
    """
    before = survey(path)
    hashing = _Hashing(say=say, total=sum(file.size for file in before.files))
    if isinstance(path, Path) and path.is_dir():
        _pack(path, before, hashing)
    else:
        _pour(path, hashing)
    _check_unchanged(before)
    return hashing.digest(), before.fingerprint


def _check_unchanged(before: Survey) -> None:
    if survey(before.root).fingerprint != before.fingerprint:
        raise BatchError(f"{before.root} changed while it was being read; run it again when it is complete")


def _pour(source: AnyPath, hashing: _Hashing) -> None:
    with source.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            hashing.write(chunk)


def archive_to(path: AnyPath, target: Path) -> tuple[Digest, str]:
    """Write the batch at `path` to `target`: a zip byte for byte, a folder packed.

    Returns:
        The archive's digest and the fingerprint of what was read.

    Raises:
        BatchError: the source changed meanwhile, what was written is not what was read, or the folder
            cannot be packed.
        OSError: it cannot be read or written.
    """
    before = survey(path)
    with target.open("wb") as out:
        hashing = _Hashing(out)
        if isinstance(path, Path) and path.is_dir():
            _pack(path, before, hashing)
        else:
            _pour(path, hashing)
    _check_unchanged(before)
    if digest_of(target) != hashing.digest():
        raise BatchError(f"{target} does not hold what was written to it; check the disk")
    return hashing.digest(), before.fingerprint


def _pack(folder: Path, seen: Survey, hashing: _Hashing) -> None:
    """Write a deterministic zip: sorted names, one fixed time and mode, nothing compressed.

    Uncompressed, because another zlib makes other bytes, and PNG does not shrink.
    """
    unreadable = list(seen.unreadable)
    with zipfile.ZipFile(hashing, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for file in seen.files:
            problem = _add(archive, folder / file.member, file)
            if problem is not None:
                unreadable.append(problem)
        if len(unreadable) == len(seen.unreadable) + len(seen.files):
            raise BatchError(f"{folder} holds no file that can be read{_examples(unreadable)}")
        archive.comment = _comment(folder, unreadable)


def _add(archive: zipfile.ZipFile, path: Path, file: File) -> Unreadable | None:
    info = zipfile.ZipInfo(file.member, _TIME)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.file_size = file.size
    try:
        stream = path.open("rb")
    except OSError as error:
        return Unreadable(file.member, error.strerror or str(error))
    with stream:
        try:
            chunk = stream.read(_CHUNK)
        except OSError as error:
            return Unreadable(file.member, error.strerror or str(error))
        with archive.open(info, "w") as member:
            while chunk:
                member.write(chunk)
                chunk = stream.read(_CHUNK)
    return None


def _examples(unreadable: list[Unreadable]) -> str:
    named = "; ".join(f"{one.member}: {one.reason}" for one in sorted(unreadable, key=str)[:3])
    return f" ({named})" if named else ""


def _comment(root: Path, unreadable: list[Unreadable]) -> bytes:
    if not unreadable:
        return b""
    rows = [[one.member, one.reason] for one in sorted(unreadable, key=lambda one: one.member)]
    comment = json.dumps({"unreadable": rows}, ensure_ascii=False).encode()
    if len(comment) > _COMMENT_BYTES:
        raise BatchError(
            f"{len(rows)} files of {root} cannot be read{_examples(unreadable)}; make them readable"
            f" (chmod -R a+rX {root}) and run it again"
        )
    return comment


def contents(archive: AnyPath) -> Contents:
    """Say what an archive holds, by its directory; no member is read, and none fails the rest.

    Raises:
        BatchError: nothing in it can be read; the message says why and what to do.
    """
    with fetched(archive) as local:
        try:
            listing = list_members(local)
        except ArchiveError as error:
            raise BatchError(str(error).replace(str(local), str(archive))) from error
    unreadable = tuple(Unreadable(one.name, one.rejection.detail) for one in listing.left_out)
    return Contents(len(listing.entries) - len(unreadable), unreadable)


def remove_archived(path: Path, archive: Path) -> bool:
    """Remove from `path` what `archive` provably holds, and nothing else; say whether all of it went.

    Safe to be killed and called again.

    Raises:
        OSError: something cannot be removed.
    """
    if not path.is_dir():
        if digest_of(path) == digest_of(archive):
            path.unlink()
        return not path.exists()
    held = checksums(archive)
    for file in survey(path).files:
        if held.get(file.member) == _size_and_crc(path / file.member):
            (path / file.member).unlink()
    return _remove_empty(path)


def _remove_empty(folder: Path) -> bool:
    for parent, _, _ in os.walk(folder, topdown=False):
        if not any(os.scandir(parent)):
            Path(parent).rmdir()
    return not folder.exists()


def _size_and_crc(path: Path) -> tuple[int, int] | None:
    size, crc = 0, 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    except OSError:
        return None
    return size, crc
