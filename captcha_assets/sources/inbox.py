"""The inbox: a zip or folder dropped there is a delivery as soon as it has stopped changing.

Looking keeps no state of its own: what has been taken is what the registrations and `data/raw` know.
"""

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from captcha_assets.settings import Settings
from captcha_assets.sources import archives, deliveries
from captcha_assets.sources.archives import DeliveryError, Digest, Survey
from captcha_assets.sources.deliveries import LocalSource, Registration

#: Endings of files that some program is still writing.
PARTIAL = (".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".temp", ".swp", "~")


@dataclass(frozen=True)
class Arrival:
    """A delivery that waits in the inbox: where, under which name, and the hash of its archive."""

    path: Path
    batch: str
    sha256: str


@dataclass(frozen=True)
class InboxScan:
    """What lies in the inbox: what can be taken, and what is left there, with the reason."""

    arrivals: list[Arrival] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def scan(settings: Settings, settled_seconds: float = 5.0, now: float | None = None) -> InboxScan:
    """Look into the inbox. Nothing is changed; the same inbox gives the same answer.

    What was taken but not fetched yet is an arrival again, under the name it has: taking it twice is taking
    it once.

    Args:
        settings: where things are kept.
        settled_seconds: how long nothing may have changed in a delivery.
        now: seconds since the epoch; the clock's by default.
    """
    found = InboxScan()
    if not settings.inbox.is_dir():
        return found
    ledger = _Ledger(settings)
    moment = time.time() if now is None else now
    for path in sorted(settings.inbox.resolve().iterdir()):
        if path.name.startswith("."):
            continue
        try:
            seen = _settled(path, settled_seconds, moment)
            found.arrivals.append(ledger.enter(seen))
        except DeliveryError as error:
            found.skipped.append((path, str(error)))
        except OSError as error:
            found.skipped.append((path, f"cannot be read: {error.strerror or error}"))
    return found


def take(settings: Settings, arrival: Arrival) -> Registration:
    """Register what arrived; `deliveries.fetch` then copies it and removes it from the inbox.

    Raises:
        DeliveryError: the name has been given to another delivery meanwhile; scan again.
    """
    deliveries.check_batch_name(arrival.batch)
    known = deliveries.registration(settings, arrival.batch)
    if known is not None:
        if known.sha256 == arrival.sha256:
            return known
        if known.sha256 is not None or known.source != LocalSource(arrival.path):
            raise DeliveryError(
                f"{arrival.batch} is the delivery from {known.source} now: scan the inbox again"
            )
    return deliveries.record(
        settings,
        Registration(
            arrival.batch,
            LocalSource(arrival.path),
            sha256=arrival.sha256,
            fingerprint=archives.survey(arrival.path).fingerprint,
        ),
    )


def _settled(path: Path, settled_seconds: float, now: float) -> Survey:
    """Return what lies at `path`, provided it is a zip or folder that nobody is writing."""
    if str(path).encode(errors="replace").decode() != str(path):
        raise DeliveryError("has a name that is not UTF-8: rename it")
    if path.is_symlink():
        raise DeliveryError("is a symbolic link: put the file or folder itself here")
    if path.name.lower().endswith(PARTIAL):
        raise DeliveryError("is still being copied, by its name")
    if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".zip"):
        raise DeliveryError("is neither a zip archive nor a folder")
    seen = archives.survey(path)
    unfinished = [file.member for file in seen.files if file.member.lower().endswith(PARTIAL)]
    if unfinished:
        raise DeliveryError(f"is still being copied: {unfinished[0]}")
    if seen.newest > now - settled_seconds:
        raise DeliveryError("has just changed, or its time lies in the future: waiting until it rests")
    if not seen.files or (path.is_file() and not archives.contents(path).members):
        raise DeliveryError("holds no files that can be read")
    return seen


@lru_cache(maxsize=1024)
def _digest(path: Path, _fingerprint: str) -> Digest:
    """Hash what lies at `path`, once as long as its fingerprint stays."""
    return archives.digest_of(path)


def _holds(archive: Path, digest: Digest) -> bool:
    if not archive.exists() or archive.stat().st_size != digest.bytes:
        return False
    return _digest(archive, archives.survey(archive).fingerprint) == digest


class _Ledger:
    """All deliveries that are known, those found earlier in the same scan included."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries = {entry.batch: entry for entry in deliveries.registrations(settings)}
        self._names = set(deliveries.known_batches(settings))

    def enter(self, seen: Survey) -> Arrival:
        """Give what was found the name it has, or a new one; refuse what is known already."""
        batch, sha256 = self._identify(seen)
        if batch is None:
            batch = self._new_name(seen.root, sha256)
        elif deliveries.archive_path(self._settings, batch).exists():
            raise DeliveryError(f"has been delivered already, as {batch}: it can be deleted here")
        elif self._entries[batch].source != LocalSource(seen.root):
            raise DeliveryError(f"is the same delivery as {self._entries[batch].source}, which is {batch}")
        self._names.add(batch)
        self._entries[batch] = Registration(batch, LocalSource(seen.root), sha256=sha256)
        return Arrival(seen.root, batch, sha256)

    def _identify(self, seen: Survey) -> tuple[str | None, str]:
        """Return the delivery that has this content, if any, and the hash of its archive."""
        for entry in self._entries.values():
            if (
                entry.sha256
                and entry.source == LocalSource(seen.root)
                and entry.fingerprint == seen.fingerprint
            ):
                return entry.batch, entry.sha256
        digest = _digest(seen.root, seen.fingerprint)
        owners = [entry.batch for entry in self._entries.values() if entry.sha256 == digest.sha256]
        return next(iter(owners), None) or self._unrecorded(seen.root, digest), digest.sha256

    def _unrecorded(self, path: Path, digest: Digest) -> str | None:
        """Find the content where no hash is recorded: asked for but not fetched yet, or brought by DVC."""
        for batch in sorted(self._names):
            entry = self._entries.get(batch)
            if entry is not None and entry.sha256:
                continue
            if entry is not None and entry.source == LocalSource(path):
                return batch
            if _holds(deliveries.archive_path(self._settings, batch), digest):
                return batch
        return None

    def _new_name(self, path: Path, sha256: str) -> str:
        """Make a batch name of a file's; a name that another delivery has gets a piece of the hash."""
        stem = path.name if path.is_dir() else path.stem
        slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:63].rstrip("-") or "delivery"
        if slug not in self._names:
            return slug
        return f"{slug[:56].rstrip('-')}-{sha256[:6]}"
