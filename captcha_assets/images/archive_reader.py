"""Reading the zip archive of a batch, whatever is in it.

The archive's directory is read by this module rather than by the standard library's `zipfile`, which
gives up on a whole archive for one bad name, holds six times the memory for a long one and spends more
time on opening a small member than on unpacking it. Nothing is ever written to disk, and nothing is
unpacked beyond the limits below.
"""

import errno
import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from captcha_assets.images.rejection import Reason, Rejection

#: Bytes a member may unpack to, where a data set does not say otherwise. A small image has some thousand; a
#: megabyte leaves room for metadata, a thumbnail or a colour profile.
MEMBER_LIMIT = 1 << 20

#: How many times its packed size a member above `SMALL` bytes may unpack to, and an archive as a
#: whole. PNG files are compressed already and hardly shrink; deflate reaches 1,032.
EXPANSION_LIMIT = 50
SMALL = 1 << 16

#: Members of one archive: seventeen times the known data set. Bounds the memory of the directory.
COUNT_LIMIT = 2_000_000

#: Bytes of an archive's directory: 250 for each of the most members.
DIRECTORY_LIMIT = 500_000_000

#: Bytes of a member's path, as on Linux.
NAME_LIMIT = 4096

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_COMMENT_LIMIT = 1 << 16
_UNKNOWN_16, _UNKNOWN_32 = 0xFFFF, 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_METHODS = {
    1: "shrink",
    6: "implode",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstd",
    95: "xz",
    98: "ppmd",
}
_ENCRYPTED_FLAGS = 0x1 | 0x40
_AES = 99
_CLUTTER = re.compile(r"(^|/)(__MACOSX/.*|\.DS_Store|\._[^/]*|Thumbs\.db|desktop\.ini)$", re.IGNORECASE)
_PLAIN_NAME = re.compile(rb"[\w\-. ]+(?:/[\w\-. ]+)*")
_ARCHIVES = re.compile(r"\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar|jar)$", re.IGNORECASE)


_KINDS = {
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG image",
    b"<": "a web page",
}
_UNIX = 3
_UNSAFE = (
    (re.compile(r"[\\\x00-\x1f]"), "its path holds a backslash or a control character"),
    (re.compile(r"^(/|[A-Za-z]:)"), "its path is absolute"),
    (re.compile(r"(^|/)\.\.(/|$)"), "its path leads out of the archive"),
)


class ArchiveError(ValueError):
    """A batch of which nothing can be read; the message says why and what to do."""


class Member(NamedTuple):
    """Where in the archive one readable member lies."""

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int


class Rejected(NamedTuple):
    """A member rejected because of what the archive's directory says about it."""

    name: str
    rejection: Rejection


Entry = Member | Rejected


@dataclass(frozen=True)
class Listing:
    """An archive's directory.

    Attributes:
        entries: every member that counts, sorted by name.
        ignored: folders and the clutter operating systems leave (`__MACOSX/`, `.DS_Store`).
        left_out: those of the entries that no archive holds, since they could not be read when their
            folder was packed.
    """

    entries: list[Entry]
    ignored: int
    left_out: tuple[Rejected, ...] = ()


class ArchiveReader:
    """Reads single members of an archive. One reader serves one thread."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Close the archive."""
        os.close(self._descriptor)

    def read(self, entry: Entry) -> bytes:
        """Return the unpacked bytes of one member.

        Raises:
            Rejection: the member is rejected, damaged, or not what the directory says it is.
        """
        if isinstance(entry, Rejected):
            raise entry.rejection
        packed = self._packed(entry)
        data = packed if entry.method == _STORED else _inflate(packed, entry.size)
        if len(data) != entry.size:
            found = "more" if len(data) > entry.size else f"{len(data)} bytes"
            raise Rejection(Reason.CORRUPT, f"unpacks to {found}, the archive says {entry.size} bytes")
        if zlib.crc32(data) != entry.crc:
            raise Rejection(Reason.CORRUPT, "its checksum differs from the archive's")
        return data

    def _packed(self, member: Member) -> bytes:
        # the local header repeats the name and may carry an extra field of unknown length: one read
        # with room to spare, and a second one where that was not enough
        name = member.name.encode()
        guess = _LOCAL.size + len(name) + 64 + member.packed
        block = os.pread(self._descriptor, guess, member.offset)
        if len(block) < _LOCAL.size or not block.startswith(b"PK\3\4"):
            raise Rejection(Reason.CORRUPT, "is not where the archive's directory says it is")
        name_length, extra_length = _LOCAL.unpack_from(block)[-2:]
        if block[_LOCAL.size : _LOCAL.size + name_length] != name:
            raise Rejection(Reason.CORRUPT, "has another name in the archive than in its directory")
        start = _LOCAL.size + name_length + extra_length
        packed = block[start : start + member.packed]
        if len(packed) < member.packed:
            packed = os.pread(self._descriptor, member.packed, member.offset + start)
        if len(packed) < member.packed:
            raise Rejection(Reason.CORRUPT, "is cut off by the end of the archive")
        return packed


@dataclass(frozen=True)
class Archive:
    """An open batch: iterate over it for `(member name, bytes or Rejection)`."""

    path: Path
    entries: list[Entry]
    ignored: int
    reader: ArchiveReader

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[tuple[str, bytes | Rejection]]:
        for entry in self.entries:
            try:
                yield entry.name, self.reader.read(entry)
            except Rejection as rejection:
                yield entry.name, rejection


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive for reading, its members sorted by name.

    Raises:
        ArchiveError: nothing in it can be read: it is missing, empty, cut off, not a zip archive,
            encrypted as a whole, or unpacks to far more than it is.
    """
    listing = list_members(path)
    reader = ArchiveReader(path)
    try:
        yield Archive(path, listing.entries, listing.ignored, reader)
    finally:
        reader.close()


def list_members(path: Path, largest_file: int = MEMBER_LIMIT) -> Listing:
    """Read an archive's directory and check every member by it.

    Args:
        path: the zip file.
        largest_file: bytes that a member may unpack to.

    Raises:
        ArchiveError: see `open_archive`.
    """
    directory = _read_directory(path)
    members, rejected, ignored = _checked(path, directory, largest_file)
    left_out = _left_out(directory.comment)
    entries = _resolve_names(members) + rejected + list(left_out)
    _check_whole(path, entries, directory.archive_bytes)
    # for equal names the rejected one comes last, whatever the archive's order
    entries.sort(key=lambda entry: (entry.name, isinstance(entry, Rejected)))
    return Listing(entries, ignored, left_out)


def checksums(path: Path) -> dict[str, tuple[int, int]]:
    """Return name to unpacked size and CRC-32 of every file that an archive's directory names.

    Nothing is checked: a member that would be rejected is named too.

    Raises:
        ArchiveError: the directory cannot be read.
    """
    directory = _read_directory(path)
    found = {}
    for record, raw, extra in _records(path, directory):
        member = _member(raw.decode("utf-8", "backslashreplace"), record, extra, directory.shift)
        found[member.name] = (member.size, member.crc)
    return found


class _Directory(NamedTuple):
    """The archive's central directory, unread; `shift` is what its offsets are short of."""

    records: bytes
    shift: int
    archive_bytes: int
    comment: bytes


class _End(NamedTuple):
    """What the record at the end of an archive says, and where this record starts."""

    length: int
    offset: int
    disk: int
    start: int
    comment: bytes


def _read_directory(path: Path) -> _Directory:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            end = _find_end(path, file.fileno(), size)
            shift = end.start - end.length - end.offset
            if end.disk or shift < 0:
                raise ArchiveError(
                    f"{path} is damaged or a part of several: its directory does not fit in it"
                )
            if end.length > DIRECTORY_LIMIT:
                raise ArchiveError(f"{path} has a directory of {end.length:,} bytes: split it")
            records = os.pread(file.fileno(), end.length, end.offset + shift)
    except IsADirectoryError as error:
        raise ArchiveError(f"{path} is a folder, not a zip archive") from error
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {os.strerror(error.errno or errno.EIO)}") from error
    return _Directory(records, shift, size, end.comment)


def _find_end(path: Path, descriptor: int, size: int) -> _End:
    if size == 0:
        raise ArchiveError(f"{path} is empty: deliver it again")
    tail_start = max(0, size - _COMMENT_LIMIT - _END.size)
    tail = os.pread(descriptor, size - tail_start, tail_start)
    position = tail.rfind(b"PK\5\6")
    if position < 0 or len(tail) - position < _END.size:
        raise ArchiveError(f"{path} {_what_it_is(descriptor)}")
    _, disk, _, _, number, length, offset, comment_length = _END.unpack_from(tail, position)
    comment = tail[position + _END.size :][:comment_length]
    end = _End(length, offset, disk, tail_start + position, comment)
    if _UNKNOWN_16 in {number, disk} or _UNKNOWN_32 in {length, offset}:
        return _find_end64(path, descriptor, end)
    return end


def _find_end64(path: Path, descriptor: int, end: _End) -> _End:
    locator = os.pread(descriptor, _LOCATOR.size, max(0, end.start - _LOCATOR.size))
    if not locator.startswith(b"PK\6\7"):
        return end  # an archive of exactly 65,535 members has no wider record
    start = max(0, end.start - _LOCATOR.size - _END64.size)
    record = os.pread(descriptor, _END64.size, start)
    if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
        raise ArchiveError(f"{path} is damaged: the record of its directory is missing. Deliver it again")
    _, _, _, _, disk, _, _, _, length, offset = _END64.unpack(record)
    return _End(length, offset, disk, start, end.comment)


def _what_it_is(descriptor: int) -> str:
    head = os.pread(descriptor, 16, 0)
    if head.startswith(b"PK\3\4"):
        return "is cut off: the directory at its end is missing. Deliver it again"
    kind = next((name for magic, name in _KINDS.items() if head.startswith(magic)), None)
    return f"is not a zip archive{f' but {kind}' if kind else ''}: deliver a .zip"


def _checked(path: Path, directory: _Directory, largest_file: int) -> tuple[list[Member], list[Entry], int]:
    """Sort the directory's records into readable members, rejected ones and a number of ignored ones."""
    members: list[Member] = []
    rejected: list[Entry] = []
    ignored = 0
    for number, (record, raw, extra) in enumerate(_records(path, directory)):
        if number >= COUNT_LIMIT:
            raise ArchiveError(f"{path} holds more than {COUNT_LIMIT:,} members: split it")
        name = raw.decode("utf-8", "backslashreplace")
        if name.endswith("/") or _CLUTTER.search(name):
            ignored += 1
            continue
        member = _member(name, record, extra, directory.shift)
        problem = _name_problem(raw) or _record_problem(member, record, largest_file)
        if problem is None and member.offset > directory.archive_bytes:
            problem = Rejection(Reason.CORRUPT, "lies beyond the end of the archive")
        if problem is None:
            members.append(member)
        else:
            rejected.append(Rejected(name[:NAME_LIMIT], problem))
    return members, rejected, ignored


def _records(path: Path, directory: _Directory) -> Iterator[tuple[tuple[int, ...], bytes, bytes]]:
    """Yield each record of the directory with its name and its extra field, as they stand there."""
    # the number of records that the archive states is no help: 16 bits are too few for many archives
    data, position = directory.records, 0
    while position < len(data):
        if data[position : position + 4] != b"PK\1\2" or len(data) - position < _CENTRAL.size:
            raise ArchiveError(f"{path} is damaged: its directory cannot be read. Deliver it again")
        record = _CENTRAL.unpack_from(data, position)
        name_end = position + _CENTRAL.size + record[10]
        extra_end = name_end + record[11]
        yield record, data[position + _CENTRAL.size : name_end], data[name_end:extra_end]
        position = extra_end + record[12]


def _member(name: str, record: tuple[int, ...], extra: bytes, shift: int) -> Member:
    sizes = [record[9], record[8], record[16]]  # unpacked, packed, offset: the order of the zip64 field
    if _UNKNOWN_32 in sizes:
        wide = iter(_wide_fields(extra))
        sizes = [next(wide, value) if value == _UNKNOWN_32 else value for value in sizes]
    size, packed, offset = sizes
    return Member(name, offset + shift, packed, size, record[7], record[4])


def _wide_fields(extra: bytes) -> tuple[int, ...]:
    """Return the 64-bit numbers of the zip64 extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            body = extra[4 : 4 + length]
            return struct.unpack_from(f"<{len(body) // 8}Q", body)
        extra = extra[4 + length :]
    return ()


def _name_problem(raw: bytes) -> Rejection | None:
    if _PLAIN_NAME.fullmatch(raw) and b".." not in raw and len(raw) <= NAME_LIMIT:
        return None
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return Rejection(Reason.NAME_NOT_UTF8, "its name is not UTF-8")
    if not 0 < len(raw) <= NAME_LIMIT:
        return Rejection(Reason.BAD_NAME, f"its name has {len(raw)} bytes, not 1 to {NAME_LIMIT}")
    for pattern, detail in _UNSAFE:
        if pattern.search(name):
            return Rejection(Reason.UNSAFE_PATH, detail)
    return None


def _record_problem(member: Member, record: tuple[int, ...], largest_file: int) -> Rejection | None:
    made_on, flags, mode = record[1] >> 8, record[3], record[15] >> 16
    if made_on == _UNIX and stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a device, pipe or folder"
        return Rejection(Reason.SPECIAL_FILE, f"is {kind}, not a file")
    if flags & _ENCRYPTED_FLAGS or member.method == _AES:
        return Rejection(Reason.ENCRYPTED, "is encrypted: deliver it without a password")
    if _ARCHIVES.search(member.name):
        return Rejection(Reason.NESTED_ARCHIVE, "is an archive in the archive: deliver it by itself")
    if member.method not in {_STORED, _DEFLATED}:
        method = _METHODS.get(member.method, f"method {member.method}")
        return Rejection(Reason.UNSUPPORTED_COMPRESSION, f"is packed with {method}: use deflate")
    return _size_problem(member, largest_file)


def _size_problem(member: Member, largest_file: int) -> Rejection | None:
    if max(member.size, member.packed) > largest_file:
        return Rejection(Reason.TOO_LARGE, f"has {member.size:,} bytes, more than {largest_file:,}")
    if member.size > SMALL and member.size > EXPANSION_LIMIT * member.packed:
        times = member.size // max(member.packed, 1)
        return Rejection(Reason.TOO_LARGE, f"unpacks to {times} times its packed size")
    return None


def _resolve_names(members: list[Member]) -> list[Entry]:
    """Reject all but one of the members whose names are equal, or equal but for upper and lower case.

    Of equal names the first in the archive is kept; of names that differ in case, the one in lower
    case, as labels are.
    """
    kept: dict[str, Member] = {}
    rejected: list[Entry] = []
    for member in members:
        other = kept.setdefault(member.name.casefold(), member)
        if other is member:
            continue
        keep, drop = (member, other) if member.name > other.name else (other, member)
        kept[member.name.casefold()] = keep
        same = keep.name == drop.name
        detail = "stands in the archive twice" if same else f"differs from {keep.name!r} in case only"
        rejected.append(Rejected(drop.name, Rejection(Reason.DUPLICATE_NAME, detail)))
    return [*kept.values(), *rejected]


def _left_out(comment: bytes) -> tuple[Rejected, ...]:
    """Return the files that could not be read when the folder was packed; the comment lists them."""
    try:
        rows = json.loads(comment)["unreadable"] if comment.startswith(b'{"unreadable"') else []
        return tuple(Rejected(_line(name), Rejection(Reason.UNREADABLE, _line(why))) for name, why in rows)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()  # a comment of another program


def _line(text: object) -> str:
    """Return what can be stored as one line of UTF-8."""
    return " ".join(str(text).encode(errors="backslashreplace").decode().split())


def _check_whole(path: Path, entries: Iterable[Entry], size: int) -> None:
    entries = list(entries)
    if not entries:
        raise ArchiveError(f"{path} holds no files: deliver an archive of labelled images")
    if all(isinstance(entry, Rejected) and entry.rejection.reason == Reason.ENCRYPTED for entry in entries):
        raise ArchiveError(f"{path} is encrypted: deliver it without a password")
    total = sum(entry.size for entry in entries if isinstance(entry, Member))
    if total > EXPANSION_LIMIT * size + MEMBER_LIMIT:
        raise ArchiveError(
            f"{path} would unpack to {total:,} bytes, {total // size} times its size: not unpacked"
        )


def _inflate(packed: bytes, size: int) -> bytes:
    """Inflate to at most one byte more than `size`."""
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(packed, size + 1)
    except zlib.error as error:
        raise Rejection(Reason.CORRUPT, "its packed data is damaged") from error
    if not inflater.eof and len(data) <= size:
        raise Rejection(Reason.CORRUPT, "its packed data ends early")
    return data
