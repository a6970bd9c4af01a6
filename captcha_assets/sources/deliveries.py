"""Deliveries: where each comes from, and how it becomes an archive in `data/raw` that never changes.

A delivery is registered first (`<artifacts>/deliveries/<batch>.json` says where it comes from) and fetched
later. An archive is made in the scratch folder, checked there and moved into `data/raw` as a whole, so
that `data/` holds nothing but complete archives at every moment.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from captcha_assets import dataset
from captcha_assets.settings import Settings
from captcha_assets.sources import archives
from captcha_assets.sources.archives import DeliveryError, Digest, Unreadable
from captcha_assets.storage import replacing, write_json

#: What a delivery may be called.
BATCH_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

#: Takes one line at a time that says how far the work is.
Progress = Callable[[str], None]

#: What fetch calls the source of an archive that nobody registered here, such as one that DVC brought.
FOUND = "found in data/raw"


@dataclass(frozen=True)
class LocalSource:
    """A zip archive or a folder on this machine; the path is absolute."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class KaggleSource:
    """The Kaggle data set: one version, or the newest at the time of the fetch (`None`)."""

    version: int | None = None

    def __str__(self) -> str:
        return "kaggle" if self.version is None else f"kaggle:{self.version}"


@dataclass(frozen=True)
class SyntheticSource:
    """`count` images of the built-in generator, the same bytes for the same `seed`."""

    count: int
    seed: int = 0

    def __str__(self) -> str:
        return f"synthetic:{self.count}" + (f":{self.seed}" if self.seed else "")


Source = LocalSource | KaggleSource | SyntheticSource


@dataclass(frozen=True)
class Registration:
    """Where a delivery comes from and, once that is known, what it is.

    Attributes:
        dataset: `owner/slug` of the Kaggle data set, for deliveries from there.
        sha256: hash of the archive; nothing else is ever accepted under this name.
        fingerprint: names, sizes and times of a local source as it was read (see `archives.Survey`).
        kaggle_version: the version that was fetched.
    """

    batch: str
    source: Source
    dataset: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    kaggle_version: int | None = None


@dataclass(frozen=True)
class RawBatch:
    """A delivery's archive as it lies in `data/raw`.

    Attributes:
        bytes: size of the archive.
        members: number of files in it.
        sha256: hash of its bytes, hexadecimal; `md5` likewise, which is what DVC records.
        unreadable: files of a delivered folder that could not be packed, with the reason.
    """

    batch: str
    path: Path
    source: str
    bytes: int
    members: int
    sha256: str
    md5: str
    kaggle_version: int | None = None
    unreadable: tuple[Unreadable, ...] = ()


def check_batch_name(name: str) -> None:
    """Accept a delivery's name, which is a partition key and a file name.

    Raises:
        DeliveryError: it is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit.
    """
    if BATCH_NAME.fullmatch(name) is None:
        raise DeliveryError(
            f"{name!r} cannot name a delivery: use 1 to 63 characters of a-z, 0-9 and -,"
            " beginning with a letter or digit"
        )


def parse_source(text: str) -> Source:
    """Read a source as a user writes it; `parse_source(str(source)) == source`.

    Args:
        text: a path to a zip or folder, `kaggle[:VERSION]`, or `synthetic:COUNT[:SEED]`. A file that bears
            such a name is meant by `./kaggle`.

    Raises:
        DeliveryError: it is none of these.
    """
    kind, *numbers = text.split(":")
    if kind == "kaggle":
        if len(numbers) > 1:
            raise DeliveryError(f"{text!r} cannot be read as kaggle[:VERSION]")
        return KaggleSource(*_numbers(text, numbers, "kaggle[:VERSION]", least=1))
    if kind == "synthetic":
        if not 1 <= len(numbers) <= 2:
            raise DeliveryError(f"{text!r} cannot be read as synthetic:COUNT[:SEED]")
        count, *seed = _numbers(text, numbers, "synthetic:COUNT[:SEED]", least=0)
        if count < 1:
            raise DeliveryError(f"{text!r} asks for no image: COUNT is at least 1")
        return SyntheticSource(count, *seed)
    if not text.strip() or "\0" in text or text.encode(errors="replace").decode() != text:
        raise DeliveryError(f"{text!r} is no source: give a zip, a folder, kaggle or synthetic:COUNT")
    return LocalSource(Path(text).expanduser().resolve())


def _numbers(text: str, numbers: list[str], form: str, least: int) -> list[int]:
    if not all(number.isascii() and number.isdigit() and int(number) >= least for number in numbers):
        raise DeliveryError(f"{text!r} cannot be read as {form}, with whole numbers from {least}")
    return [int(number) for number in numbers]


def archive_path(settings: Settings, batch: str) -> Path:
    """Where a delivery's archive lies once it is fetched."""
    return settings.raw / f"{batch}.zip"


def require_archives(settings: Settings, batches: Iterable[str]) -> None:
    """Check that the archives of these batches are there, so that nobody records `data/` without one.

    Raises:
        DeliveryError: an archive is missing; the message says how to restore it.
    """
    for batch in batches:
        path = archive_path(settings, batch)
        if not path.exists():
            raise DeliveryError(
                f"{path} is missing: restore it (dvc checkout data.dvc, or dvc pull), fetch it again"
                f" (captcha-assets backfill raw_batch --batches {batch}), or remove the batch"
                f" (captcha-assets batch remove {batch})"
            )


def register(settings: Settings, batch: str, source: Source) -> Registration:
    """Record where a delivery comes from; nothing is fetched. The same again changes nothing.

    Raises:
        DeliveryError: the name cannot be used or belongs to another source, or the path is not a zip or
            folder that can be read.
    """
    check_batch_name(batch)
    asked = Registration(batch, source, dataset=_dataset(settings, source))
    known = registration(settings, batch)
    if known is not None:
        if (known.source, known.dataset) != (asked.source, asked.dataset):
            raise DeliveryError(
                f"{batch} is already the delivery from {known.source}: choose another name for {source},"
                f" or remove it first (captcha-assets batch remove {batch})"
            )
        return known
    if isinstance(source, LocalSource):
        _check_local(source.path)
        _check_same(archive_path(settings, batch), source.path)
    return record(settings, asked)


def _dataset(settings: Settings, source: Source) -> str | None:
    if not isinstance(source, KaggleSource):
        return None
    return settings.kaggle_dataset or dataset.KAGGLE_DATASET


def _check_local(path: Path) -> None:
    """Refuse early what can be seen to be no delivery."""
    with _plain_errors(f"{path} cannot be read"):
        if not path.exists():
            raise DeliveryError(f"{path} does not exist: give a zip archive or a folder of images")
        if path.is_dir():
            if not archives.survey(path).files:
                raise DeliveryError(f"{path} holds no files: give a folder of images")
        elif not path.is_file():
            raise DeliveryError(f"{path} is neither a zip archive nor a folder")
        elif not archives.contents(path).members:
            raise DeliveryError(f"{path} holds no files: give a zip archive of images")


def _check_same(archive: Path, source: Path) -> None:
    """Refuse a name under which an archive of other content lies in `data/raw`, brought by DVC say."""
    if archive.exists() and archives.digest_of(archive) != archives.digest_of(source):
        raise DeliveryError(
            f"{archive} already holds another delivery of this name: choose another name for {source},"
            f" or remove it first (captcha-assets batch remove {archive.stem})"
        )


def record(settings: Settings, entry: Registration) -> Registration:
    """Write a registration, complete or not at all, over what was recorded under its name."""
    settings.deliveries.mkdir(parents=True, exist_ok=True)
    write_json(settings.delivery(entry.batch), {**asdict(entry), "source": str(entry.source)})
    return entry


def registration(settings: Settings, batch: str) -> Registration | None:
    """Return where a delivery comes from, or `None` when nobody registered it here.

    Raises:
        DeliveryError: the record cannot be read.
    """
    place = settings.delivery(batch)
    if not place.exists():
        return None
    try:
        fields = json.loads(place.read_text())
        return Registration(**{**fields, "source": parse_source(fields["source"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DeliveryError(
            f"{place} is damaged ({error}): remove the file and register {batch} again"
        ) from error


def registrations(settings: Settings) -> list[Registration]:
    """Return all registrations in order of their names."""
    names = sorted(place.stem for place in settings.deliveries.glob("*.json"))
    return [entry for name in names if (entry := registration(settings, name)) is not None]


def known_batches(settings: Settings) -> list[str]:
    """Return the names of all deliveries, sorted: those registered and those whose archive is here."""
    registered = {place.stem for place in settings.deliveries.glob("*.json")}
    present = {place.stem for place in settings.raw.glob("*.zip")}
    return sorted(name for name in registered | present if BATCH_NAME.fullmatch(name))


def remove(settings: Settings, batch: str) -> None:
    """Forget a delivery: its registration and its archive. What was made from it is the caller's.

    Raises:
        DeliveryError: there is no such delivery.
    """
    check_batch_name(batch)
    if batch not in known_batches(settings):
        raise DeliveryError(f"there is no delivery {batch}; known are: {_listed(settings)}")
    with _locked(settings, batch):
        archive_path(settings, batch).unlink(missing_ok=True)
        _made(settings, batch).unlink(missing_ok=True)
        settings.delivery(batch).unlink(missing_ok=True)


def _listed(settings: Settings) -> str:
    return ", ".join(known_batches(settings)) or "none"


def _silent(_: str) -> None:
    pass


def fetch(settings: Settings, batch: str, progress: Progress = _silent) -> RawBatch:
    """Bring a delivery's archive into `data/raw`, or check the one that lies there, and describe it.

    An archive in `data/raw` is never replaced. Killed at any moment, a second call ends in the same archive.

    Args:
        settings: where things are kept.
        batch: name of the delivery.
        progress: is handed one line at a time, from another thread too.

    Raises:
        DeliveryError: nobody knows this delivery, its source cannot be read or is not what it was, the
            archive is damaged, or the disk is full.
    """
    check_batch_name(batch)
    target = archive_path(settings, batch)
    with _locked(settings, batch), _plain_errors(f"{batch} cannot be fetched"):
        known = registration(settings, batch)
        if not target.exists():
            if known is None:
                raise DeliveryError(
                    f"there is no delivery {batch} (known are: {_listed(settings)}): register it"
                    f" (captcha-assets batch add {batch} SOURCE), or bring its archive with `dvc pull`"
                )
            known = _bring(settings, known, progress)
        raw = _describe(target, known)
        if known is not None:
            if known.sha256 is None:
                record(settings, replace(known, sha256=raw.sha256))
            _clear_inbox(settings, known, target)
    return raw


@contextmanager
def _locked(settings: Settings, batch: str) -> Iterator[None]:
    """Let one process at a time work on a delivery; the lock goes with the process."""
    place = settings.scratch / "locks" / f"{batch}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Say in one line what the system refused."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = f"{what}: no space left on the disk or in the quota; free some and run it again"
        else:
            message = f"{what}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise DeliveryError(message) from error


def _made(settings: Settings, batch: str) -> Path:
    return settings.scratch / "deliveries" / f"{batch}.zip"


def _bring(settings: Settings, known: Registration, progress: Progress) -> Registration:
    """Make the archive, record what it is, move it to its place."""
    target, made = archive_path(settings, known.batch), _made(settings, known.batch)
    progress(f"{known.batch}: fetching {known.source}")
    try:
        with replacing(made) as part:
            known = record(settings, _same(known, _write(settings, known, part, progress)))
        _move(made, target)
    finally:
        made.unlink(missing_ok=True)
    progress(f"{known.batch}: {target.stat().st_size:,} bytes in {target}")
    return known


def _move(made: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as part:  # data/ lies on another file system than the scratch folder
            shutil.copyfile(made, part)


def _sync_folder(folder: Path) -> None:
    """Have the disk keep the names in a folder, before the inbox lets go of what one of them holds."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(settings: Settings, known: Registration, part: Path, progress: Progress) -> Registration:
    """Write the archive to `part`; return the registration with what is now known of it."""
    source = known.source
    if isinstance(source, LocalSource):
        _check_local(source.path)
        digest, fingerprint = archives.archive_to(source.path, part)
        return replace(known, sha256=digest.sha256, fingerprint=fingerprint)
    if isinstance(source, KaggleSource):
        return _download(settings, known, part, progress)
    from captcha_assets.sources import generator  # noqa: PLC0415 - its fonts and pictures take a second

    generator.write_archive(part, source.count, source.seed)
    return replace(known, sha256=archives.digest_of(part).sha256)


def _download(settings: Settings, known: Registration, part: Path, progress: Progress) -> Registration:
    from captcha_assets.sources import kaggle  # noqa: PLC0415 - its client takes a second to import

    assert isinstance(known.source, KaggleSource)
    version = known.kaggle_version or known.source.version
    got = kaggle.download(
        known.dataset or dataset.KAGGLE_DATASET, version, part, settings.scratch / "kaggle", progress
    )
    return replace(known, sha256=archives.digest_of(part).sha256, kaggle_version=got.version)


def _same(known: Registration, now: Registration) -> Registration:
    """Return `now`, provided it is the content that was recorded before."""
    if known.sha256 not in (None, now.sha256):
        raise DeliveryError(
            f"{known.source} is not any more what was delivered as {known.batch} (sha256 {now.sha256} instead"
            f" of {known.sha256}): restore the archive with `dvc pull`, or remove the delivery"
            f" (captcha-assets batch remove {known.batch}) and add it again"
        )
    return now


def _describe(archive: Path, known: Registration | None) -> RawBatch:
    digest: Digest = archives.digest_of(archive)
    if known is not None and known.sha256 not in (None, digest.sha256):
        raise DeliveryError(
            f"{archive} is not what was delivered (sha256 {digest.sha256} instead of {known.sha256}):"
            f" delete the file and fetch it again, or restore it with `dvc checkout`"
        )
    held = archives.contents(archive)
    return RawBatch(
        batch=archive.stem,
        path=archive,
        source=FOUND if known is None else str(known.source),
        bytes=digest.bytes,
        members=held.members,
        sha256=digest.sha256,
        md5=digest.md5,
        kaggle_version=None if known is None else known.kaggle_version,
        unreadable=held.unreadable,
    )


def _clear_inbox(settings: Settings, known: Registration, archive: Path) -> None:
    """Remove a delivery from the inbox now that its archive is safe.

    It is moved aside under a hidden name first, so that a kill half-way leaves nothing in sight that
    would look like another delivery. What the archive does not hold is put back.
    """
    if not isinstance(known.source, LocalSource) or known.source.path.parent != settings.inbox.resolve():
        return
    place = known.source.path
    aside = place.with_name(f".taken-{known.batch}")
    if not aside.exists() and place.exists():
        place.rename(aside)
    if aside.exists() and not archives.remove_delivered(aside, archive) and not place.exists():
        aside.rename(place)
