"""The inbox: a zip or folder dropped there is a batch as soon as it has stopped changing.

With the profile `shared` it lies on the object store and takes zips alone, which appear there whole.

Looking keeps no state of its own: what has been taken is what the registrations and `data/raw` know.
"""

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from captcha_assets.atomic_files import AnyPath
from captcha_assets.paths import Paths
from captcha_assets.sources import archives, batch_registration
from captcha_assets.sources.archives import BatchError, Digest, Survey
from captcha_assets.sources.batch_registration import RESERVED, FileSource, Registration

#: Endings of files that some program is still writing.
PARTIAL = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".temp", ".swp", "~")

#: Seconds that an archive may be incomplete before it counts as damaged rather than as being copied.
PATIENCE = 60.0


class _StillCopiedError(BatchError):
    """Something that will be complete in a moment."""


@dataclass(frozen=True)
class Arrival:
    """A batch that waits in the inbox: where, under which name, and the hashes of its content and files."""

    path: AnyPath
    batch: str
    sha256: str
    fingerprint: str = field(compare=False, default="")


@dataclass(frozen=True)
class Left:
    """Something that stays in the inbox.

    Attributes:
        path: where it lies.
        reason: why, and what to do; one line that can be printed, the same as long as nothing changes.
        waiting: whether it is still being copied, so that there is nothing to do.
    """

    path: AnyPath
    reason: str
    waiting: bool = False

    @property
    def name(self) -> str:
        """Its name, such that it can be printed and stored."""
        return self.path.name.encode(errors="backslashreplace").decode()

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class InboxScan:
    """What lies in the inbox: what can be taken, and what is left there, with the reason."""

    arrivals: list[Arrival] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    @property
    def problems(self) -> list[Left]:
        """What is left there until a person does something about it."""
        return [one for one in self.left if not one.waiting]


def prepare(paths: Paths) -> str | None:
    """Create the folder, so that what is copied to it lands in it.

    Returns:
        What stands in its place, and what to do; None where nothing does. In a home that cannot be written
        to there need not be a folder.
    """
    if not isinstance(paths.inbox, Path):
        return None  # a store has no folders
    with suppress(OSError):
        paths.inbox.mkdir(parents=True, exist_ok=True)
    if not paths.inbox.is_dir() and (paths.inbox.exists() or paths.inbox.is_symlink()):
        return _no_folder(paths.inbox)
    return None


def _no_folder(inbox: Path) -> str:
    if inbox.is_symlink() and not inbox.exists():
        return f"{inbox} is a link to nothing: create the folder that it leads to, or remove the link"
    return (
        f"{inbox} is a file, so no batch can arrive there: move it into a folder of this name"
        f" (mv {inbox} {inbox}.zip && mkdir {inbox} && mv {inbox}.zip {inbox}/)"
    )


def scan(paths: Paths, settled_seconds: float = 5.0, now: float | None = None) -> InboxScan:
    """Look into the inbox. Nothing is changed; the same inbox gives the same answer.

    What was taken but not fetched yet is an arrival again, under the name it has: taking it twice is taking
    it once.

    Args:
        paths: where things are kept.
        settled_seconds: how long nothing may have changed in a batch.
        now: seconds since the epoch; the clock's by default.
    """
    found = InboxScan()
    try:
        entries = _entries(paths.inbox)
    except OSError as error:
        found.left.append(Left(paths.inbox, f"cannot be read: {error.strerror or error}"))
        return found
    except BatchError as error:
        found.left.append(Left(paths.inbox, str(error)))
        return found
    if not entries:
        return found
    ledger = _Ledger(paths)
    moment = time.time() if now is None else now
    for path in entries:
        try:
            seen = (
                _settled(path, settled_seconds, moment) if isinstance(path, Path) else _object(path, moment)
            )
            found.arrivals.append(ledger.enter(seen))
        except BatchError as error:
            found.left.append(Left(path, _plain(path, str(error)), isinstance(error, _StillCopiedError)))
        except OSError as error:
            found.left.append(Left(path, f"cannot be read: {error.strerror or error}"))
    return found


def _entries(inbox: AnyPath) -> list[AnyPath]:
    """Return what lies in the inbox, sorted, without hidden files."""
    if not isinstance(inbox, Path):
        names = inbox.iterdir() if inbox.exists() else ()
        return sorted((path for path in names if path.name and not path.name.startswith(".")), key=str)
    if not inbox.is_dir():
        if inbox.exists() or inbox.is_symlink():
            raise BatchError(_no_folder(inbox))
        return []
    return sorted(path for path in inbox.resolve().iterdir() if not path.name.startswith("."))


def _plain(path: AnyPath, reason: str) -> str:
    return reason.removeprefix(f"{path} ").encode(errors="backslashreplace").decode()


def take(paths: Paths, arrival: Arrival) -> Registration:
    """Register what arrived; `batch_registration.fetch` then copies it and removes it from the inbox.

    Raises:
        BatchError: the name has been given to another batch meanwhile; scan again.
    """
    batch_registration.check_batch_name(arrival.batch)
    source = FileSource(arrival.path)
    entry = Registration(
        arrival.batch, source, sha256=arrival.sha256, fingerprint=arrival.fingerprint or None
    )
    known = batch_registration.claim(paths, entry)
    if known is None:
        raise BatchError(f"{arrival.batch} is being removed: scan the inbox again")
    if known.sha256 == arrival.sha256 and (known.source == source or _still_there(known)):
        return known
    # The same content from another place than before, or other content than was taken but never fetched.
    fetched = batch_registration.archive_path(paths, arrival.batch).exists()
    if known.sha256 == arrival.sha256 or (known.source == source and not fetched):
        return batch_registration.record(paths, replace(entry, dataset=known.dataset))
    raise BatchError(f"{arrival.batch} is the batch from {known.source} now: scan the inbox again")


def _still_there(known: Registration) -> bool:
    return not isinstance(known.source, FileSource) or known.source.path.exists()


def _settled(path: Path, settled_seconds: float, now: float) -> Survey:
    """Return what lies at `path`, provided it is a zip or folder that no process is writing."""
    if str(path).encode(errors="replace").decode() != str(path):
        raise BatchError("has a name that is not UTF-8: rename it")
    if path.is_symlink():
        raise BatchError("is a symbolic link: put the file or folder itself here")
    if path.name.lower().endswith(PARTIAL):
        raise _StillCopiedError("is still being copied, by its name")
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".zip"):
        raise BatchError("is neither a zip archive nor a folder")
    seen = archives.survey(path)
    unfinished = [file.member for file in seen.files if file.member.lower().endswith(PARTIAL)]
    if unfinished:
        raise _StillCopiedError(f"is still being copied: {unfinished[0]}")
    if seen.newest > now - settled_seconds:
        raise _StillCopiedError("has just changed, or its time lies in the future: waiting until it rests")
    if not seen.files:
        raise BatchError("holds no files that can be read")
    if path.is_file():
        _check_complete(seen, now)
    return seen


def _object(path: AnyPath, now: float) -> Survey:
    """Return what lies at `path`, provided it is a zip on an object store: it appears there whole."""
    if path.name.lower().endswith(PARTIAL):
        raise _StillCopiedError("is still being copied, by its name")
    if path.suffix.lower() != ".zip":
        raise BatchError("is no zip archive: the inbox of an object store takes nothing else")
    seen = archives.survey(path)
    _check_complete(seen, now)
    return seen


def _check_complete(seen: Survey, now: float) -> None:
    damage = _damage(seen.root, seen.fingerprint)
    if damage is None:
        return
    if seen.newest > now - PATIENCE:  # a copy that has stalled
        raise _StillCopiedError(damage)
    raise BatchError(damage)


@lru_cache(maxsize=1024)
def _damage(archive: AnyPath, _fingerprint: str) -> str | None:
    """Return why an archive cannot be read, None where it can, once as long as its fingerprint stays."""
    try:
        archives.contents(archive)
    except BatchError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _digest(path: AnyPath, _fingerprint: str) -> Digest:
    """Hash what lies at `path`, once as long as its fingerprint stays."""
    return archives.digest_of(path)


def _digest_of_archive(archive: AnyPath) -> Digest:
    return _digest(archive, archives.survey(archive).fingerprint)


def _holds(archive: AnyPath, digest: Digest) -> bool:
    if not archive.exists() or archive.stat().st_size != digest.bytes:
        return False
    return _digest_of_archive(archive) == digest


class _Ledger:
    """All batches that are known, those found earlier in the same scan included."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._entries: dict[str, Registration] = {}
        self._names = set(batch_registration.known_batches(paths)) | RESERVED
        self._here: set[str] = set()
        for batch in self._names:
            with suppress(BatchError):  # a damaged registration is reported where it is used
                if entry := batch_registration.registration(paths, batch):
                    self._entries[batch] = entry

    def enter(self, seen: Survey) -> Arrival:
        """Give what was found the name it has, or a new one; reject what is known already."""
        batch, sha256 = self._identify(seen)
        if batch is None:
            batch = self._waiting_at(seen.root) or self._new_name(seen.root, sha256)
        elif self._is_fetched(batch, sha256):
            raise BatchError(f"has been delivered already, as {batch}: it can be deleted here")
        else:
            self._reject_second(batch, seen.root)
        self._here.add(batch)
        self._names.add(batch)
        self._entries[batch] = Registration(batch, FileSource(seen.root), sha256=sha256)
        return Arrival(seen.root, batch, sha256, seen.fingerprint)

    def _is_fetched(self, batch: str, sha256: str) -> bool:
        archive = batch_registration.archive_path(self._paths, batch)
        # one that is damaged is fetched again
        return archive.exists() and _digest_of_archive(archive).sha256 == sha256

    def _reject_second(self, batch: str, path: AnyPath) -> None:
        """Reject a batch that is registered from another path, as long as it can be read there."""
        source = self._entries[batch].source
        if source != FileSource(path) and (batch in self._here or _still_there(self._entries[batch])):
            raise BatchError(f"is the same batch as {source}, which is {batch}: it can be deleted here")

    def _waiting_at(self, path: AnyPath) -> str | None:
        """Return the batch that was taken at this place and never fetched: other content takes its place."""
        for batch, entry in self._entries.items():
            fetched = batch_registration.archive_path(self._paths, batch).exists()
            if entry.source == FileSource(path) and batch not in self._here and not fetched:
                return batch
        return None

    def _identify(self, seen: Survey) -> tuple[str | None, str]:
        """Return the batch that has this content, if any, and the hash of its archive."""
        for entry in self._entries.values():
            if (
                entry.sha256
                and entry.source == FileSource(seen.root)
                and entry.fingerprint == seen.fingerprint
            ):
                return entry.batch, entry.sha256
        digest = _digest(seen.root, seen.fingerprint)
        owners = [entry.batch for entry in self._entries.values() if entry.sha256 == digest.sha256]
        return next(iter(owners), None) or self._unrecorded(seen.root, digest), digest.sha256

    def _unrecorded(self, path: AnyPath, digest: Digest) -> str | None:
        """Find the content where no hash is recorded: asked for but not fetched yet, or brought by DVC."""
        for batch in sorted(self._names):
            entry = self._entries.get(batch)
            if entry is not None and entry.sha256:
                continue
            if entry is not None and entry.source == FileSource(path):
                return batch
            if _holds(batch_registration.archive_path(self._paths, batch), digest):
                return batch
        return None

    def _new_name(self, path: AnyPath, sha256: str) -> str:
        """Return a batch name for a file's name; a name that another batch has gets a piece of the hash."""
        stem = path.name if isinstance(path, Path) and path.is_dir() else path.stem
        slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].rstrip("-") or "batch"
        if slug not in self._names:
            return slug
        return f"{slug[:56].rstrip('-')}-{sha256[:6]}"
