"""Batches: where each comes from, and how it becomes an archive in `data/raw`.

A batch is registered first (`<artifacts>/deliveries/<batch>.json` says what ought to be: its source and,
for a zip or folder, the hash of its content) and fetched later. An archive is written in the scratch folder,
checked there and moved into `data/raw` as a whole, so that `data/` holds nothing but complete archives at
every moment. An archive that is not what is registered is replaced from its source.
"""

import errno
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from captcha_assets import locks
from captcha_assets.atomic_files import (
    AnyPath,
    create,
    fetched,
    json_text,
    move,
    path_of,
    regular,
    replacing,
    write_json,
)
from captcha_assets.atomic_files import remove as remove_path
from captcha_assets.images.archive_reader import COUNT_LIMIT
from captcha_assets.paths import Paths, how_to_restore
from captcha_assets.settings import Settings
from captcha_assets.sources import archives, dvc_snapshot
from captcha_assets.sources.archives import BatchError, Digest, Progress, Unreadable

#: How the address of an object begins.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://")

#: What a batch may be called.
BATCH_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
#: What no batch is called, since commands take it for another thing: `backfill --batches all`.
RESERVED = frozenset({"all", "candidate", "champion", "none"})

#: Greatest seed of the generator: what 64 bits hold, so that every file and tool can keep it.
SEED_LIMIT = 2**63 - 1
#: Greatest version of a Kaggle data set: what Kaggle's API takes.
VERSION_LIMIT = 2**31 - 1
#: Python reads no number of more than some thousand digits; no source needs one of so many.
_DIGITS = 20

#: The field of a registration's file that holds the hash of the others.
_CHECKSUM = "checksum"

#: What fetch calls the source of an archive that was not registered here, such as one that DVC brought.
FOUND = "found in data/raw"


@dataclass(frozen=True)
class FileSource:
    """A zip archive or a folder on this machine, by its absolute path, or a zip on an object store."""

    path: AnyPath

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


Source = FileSource | KaggleSource | SyntheticSource


@dataclass(frozen=True)
class Registration:
    """Where a batch comes from and what it is.

    Attributes:
        dataset: `owner/slug` of the Kaggle data set, for batches from there.
        sha256: hash of the archive; nothing else is accepted under this name. Known from the start for a
            zip or folder, from the first fetch on for other sources; `None` means: to be fetched.
        fingerprint: names, sizes and times of a local source as it was read (see `archives.Survey`).
        kaggle_version: the version that was fetched last.
    """

    batch: str
    source: Source
    dataset: str | None = None
    sha256: str | None = None
    fingerprint: str | None = None
    kaggle_version: int | None = None

    @property
    def is_to_be_asked(self) -> bool:
        """Whether the newest version was fetched once and has been registered again since."""
        return self.sha256 is None and self.kaggle_version is not None

    @property
    def identity(self) -> str:
        """The registered content, as one line that no fetch changes.

        The content's hash for a zip or folder; else the source, which says it all (`kaggle` alone names
        the newest version, whichever that is).
        """
        if isinstance(self.source, FileSource):
            return f"sha256:{self.sha256}" if self.sha256 else str(self.source)
        return f"{self.source} of {self.dataset}" if self.dataset else str(self.source)


@dataclass(frozen=True)
class RawBatch:
    """A batch's archive as it lies in `data/raw`.

    Attributes:
        bytes: size of the archive.
        members: number of files in it.
        sha256: hash of its bytes, hexadecimal; `md5` likewise, which is what DVC records.
        unreadable: files of a delivered folder that could not be packed, with the reason.
    """

    batch: str
    path: AnyPath
    source: str
    bytes: int
    members: int
    sha256: str
    md5: str
    kaggle_version: int | None = None
    unreadable: tuple[Unreadable, ...] = ()


def check_batch_name(name: str) -> None:
    """Accept a batch's name, which is a partition key and a file name.

    Raises:
        BatchError: it is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit.
    """
    if BATCH_NAME.fullmatch(name) is None:
        raise BatchError(
            f"{name!r} cannot name a batch: use 1 to 63 characters of a-z, 0-9 and -,"
            " beginning with a letter or digit"
        )


def check_new(name: str, source: Source) -> None:
    """Accept a name and a source for a batch that is registered now, though one of old may break the rule.

    Raises:
        BatchError: the name is not allowed, or a batch cannot come from this source.
    """
    check_batch_name(name)
    if name in RESERVED:
        raise BatchError(f"{name!r} cannot name a batch: commands give it another meaning; choose another")
    if isinstance(source, SyntheticSource):
        if source.count > COUNT_LIMIT:
            raise BatchError(
                f"{source} asks for {source.count:,} images, more than the {COUNT_LIMIT:,} that an archive"
                " may hold: register several batches with different seeds"
            )
        if source.seed > SEED_LIMIT:
            raise BatchError(f"{source} has a seed above {SEED_LIMIT}: choose a smaller one")
    if isinstance(source, KaggleSource) and (source.version or 0) > VERSION_LIMIT:
        raise BatchError(f"{source} has a version above {VERSION_LIMIT}: there is none")


def parse_source(text: str) -> Source:
    """Read a source as a user writes it; `parse_source(str(source)) == source`.

    Args:
        text: a path to a zip or folder, an address such as `s3://bucket/october.zip`, `kaggle[:VERSION]`,
            or `synthetic:COUNT[:SEED]`. A file that bears such a name is meant by `./kaggle`.

    Raises:
        BatchError: it is none of these.
    """
    kind, *numbers = text.split(":")
    if kind == "kaggle":
        if len(numbers) > 1:
            raise BatchError(f"{text!r} cannot be read as kaggle[:VERSION]")
        return KaggleSource(*_numbers(text, numbers, "kaggle[:VERSION]", least=1))
    if kind == "synthetic":
        if not 1 <= len(numbers) <= 2:
            raise BatchError(f"{text!r} cannot be read as synthetic:COUNT[:SEED]")
        count, *seed = _numbers(text, numbers, "synthetic:COUNT[:SEED]", least=0)
        if count < 1:
            raise BatchError(f"{text!r} asks for no image: COUNT is at least 1")
        return SyntheticSource(count, *seed)
    if not text.strip() or "\0" in text or text.encode(errors="replace").decode() != text:
        raise BatchError(f"{text!r} is no source: give a zip, a folder, kaggle or synthetic:COUNT")
    if _ADDRESS.match(text):
        return FileSource(_object_at(text))
    return FileSource(Path(text).expanduser().resolve())


def _object_at(text: str) -> AnyPath:
    """Return the path of an object by its address, `s3://<bucket>/<key>`."""
    scheme, _, place = text.partition("://")
    if scheme not in {"s3", "gs"}:
        raise BatchError(
            f"{text!r} is no source: {scheme}:// is not supported; give s3://, gs:// or a local path"
        )
    names = place.split("/")
    if len(names) < 2 or not all(names):
        raise BatchError(f"{text!r} is no source: give {scheme}://<bucket>/<path of a zip archive>")
    return path_of(text)


def _numbers(text: str, numbers: list[str], form: str, least: int) -> list[int]:
    plain = all(number.isascii() and number.isdigit() and len(number) <= _DIGITS for number in numbers)
    if not plain or not all(int(number) >= least for number in numbers):
        raise BatchError(
            f"{_shortened(text)!r} cannot be read as {form}, with whole numbers from {least}"
            f" of at most {_DIGITS} digits"
        )
    return [int(number) for number in numbers]


def _shortened(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}\N{HORIZONTAL ELLIPSIS}"


def archive_path(paths: Paths, batch: str) -> AnyPath:
    """Where a batch's archive lies once it is fetched."""
    return paths.raw / f"{batch}.zip"


def require_archives(paths: Paths, batches: Iterable[str]) -> None:
    """Check that the archives of these batches are there, so that DVC does not record `data/` without one.

    Raises:
        BatchError: an archive is missing; the message says how to restore it.
    """
    for batch in batches:
        path = archive_path(paths, batch)
        if not path.exists():
            raise BatchError(
                f"{path} is missing: restore it {how_to_restore(path, 'data.dvc')}, fetch it again"
                f" (captcha-assets backfill raw_batch --batches {batch}), or remove the batch"
                f" (captcha-assets batch remove {batch})"
            )


def _silent(_: str) -> None:
    pass


def register(settings: Settings, batch: str, source: Source, progress: Progress = _silent) -> Registration:
    """Register the content of a batch; nothing is fetched. The same registration again changes nothing.

    A zip or folder is read, since its content is what is registered: the same path with other content is
    registered again, and another path with the same content takes the place of the first. `kaggle` without
    a version, once fetched, is looked up again.

    Args:
        settings: where things are kept.
        batch: name of the batch.
        source: where it comes from.
        progress: is handed one line at a time: what is waited for, and at last what was done.

    Raises:
        BatchError: the name cannot be used or belongs to another batch, or the path is not a zip or
            folder that can be read.
    """
    check_new(batch, source)
    with _plain_errors(f"{batch} cannot be registered"):
        on_kaggle = _dataset(settings) if isinstance(source, KaggleSource) else None
        requested = Registration(batch, source, dataset=on_kaggle)
        if isinstance(source, FileSource):
            _check_file(source.path)
            digest, fingerprint = archives.identify(source.path, lambda line: progress(f"{batch}: {line}"))
            requested = replace(requested, sha256=digest.sha256, fingerprint=fingerprint)
        with _locked(settings.paths, batch, progress):
            return _enter(settings.paths, requested, progress)


def _enter(paths: Paths, requested: Registration, progress: Progress) -> Registration:
    """Register a batch, or say what its registration has to do with it. The batch is locked."""
    known = registration(paths, requested.batch)
    if known is None:
        _check_unregistered(paths, requested)
        if claim(paths, requested) == requested:
            progress(f"{requested.batch}: registered from {requested.source}")
            return requested
        known = registration(paths, requested.batch)  # another machine came first
        if known is None:
            raise BatchError(f"{requested.batch} is registered and removed by another process: run it again")
    entry, done = _compared(known, requested)
    progress(f"{requested.batch}: {done}")
    return known if entry == known else record(paths, entry)


def _compared(known: Registration, requested: Registration) -> tuple[Registration, str]:
    """Return what is to be registered where `known` is, and what that means.

    Raises:
        BatchError: `requested` is another batch.
    """
    if (known.source, known.dataset) == (requested.source, requested.dataset):
        if isinstance(known.source, KaggleSource) and known.source.version is None and known.sha256:
            return replace(
                known, sha256=None
            ), "registered again: the next update fetches the newest from Kaggle"
        if requested.sha256 in (None, known.sha256):
            return known, f"already registered from {known.source}, nothing changed"
        was = (
            f"sha256 {requested.sha256[:12]} instead of {known.sha256[:12]}" if known.sha256 else "first read"
        )
        return requested, f"registered again from {known.source}, whose content is new ({was})"
    if requested.sha256 is not None and requested.sha256 == known.sha256:
        if isinstance(known.source, FileSource):
            return requested, f"the same content as from {known.source}; registered from {requested.source}"
        return known, f"already registered from {known.source} with the same content, nothing changed"
    raise BatchError(
        f"{known.batch} is already registered from {known.source}: choose another name for "
        f"{requested.source}, or remove it first (captcha-assets batch remove {known.batch})"
    )


def claim(paths: Paths, entry: Registration) -> Registration | None:
    """Register a name that is free, and return what is registered under it now.

    Of several processes, on several machines, exactly one is handed its own entry back.
    """
    if create(paths.registration(entry.batch), _written(entry)):
        return entry
    return registration(paths, entry.batch)


def _dataset(settings: Settings) -> str:
    """Return `owner/slug` of the Kaggle data set."""
    if settings.kaggle_dataset is None:
        raise BatchError("this data set names none on Kaggle: set CAPTCHA_KAGGLE_DATASET to owner/slug")
    return settings.kaggle_dataset


def _check_file(path: AnyPath) -> None:
    """Reject early what can be seen to be no batch."""
    with _plain_errors(f"{path} cannot be read"):
        if not path.exists():
            raise BatchError(f"{path} does not exist: give a zip archive or a folder of images")
        if isinstance(path, Path) and path.is_dir():
            if not archives.survey(path).files:
                raise BatchError(f"{path} holds no files: give a folder of images")
        elif isinstance(path, Path) and not path.is_file():
            raise BatchError(f"{path} is neither a zip archive nor a folder")
        elif archives.survey(path) and not archives.contents(path).members:
            raise BatchError(f"{path} holds no files: give a zip archive of images")


def _check_unregistered(paths: Paths, requested: Registration) -> None:
    """Reject a name under which an archive of other content lies in `data/raw`, brought by DVC say."""
    archive = archive_path(paths, requested.batch)
    if requested.sha256 and archive.exists() and archives.digest_of(archive).sha256 != requested.sha256:
        raise _other_archive(archive, requested)


def _other_archive(archive: AnyPath, requested: Registration) -> BatchError:
    return BatchError(
        f"{archive} already holds another batch of this name: choose another name for {requested.source},"
        f" or remove it first (captcha-assets batch remove {requested.batch})"
    )


def record(paths: Paths, entry: Registration) -> Registration:
    """Write a registration, complete or not at all, over what was recorded under its name."""
    write_json(paths.registration(entry.batch), _fields(entry))
    return entry


def _fields(entry: Registration) -> dict[str, object]:
    fields = {**asdict(entry), "source": str(entry.source)}
    return {**fields, _CHECKSUM: _checksum(fields)}


def _checksum(fields: dict[str, Any]) -> str:
    """Return the hash of a registration, by which a changed byte of its file is noticed."""
    return hashlib.sha256(json_text(fields).encode()).hexdigest()[:32]


def _written(entry: Registration) -> str:
    return json_text(_fields(entry))


def registration(paths: Paths, batch: str) -> Registration | None:
    """Return where a batch comes from, or `None` when it was not registered here.

    Raises:
        BatchError: the record cannot be read.
    """
    path = paths.registration(batch)
    try:
        text = regular(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(paths, batch, error) from error
    try:
        return _read(json.loads(text), batch)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(paths, batch, error) from error


def _read(fields: dict[str, Any], batch: str) -> Registration:
    checksum = fields.pop(_CHECKSUM, None)  # earlier versions wrote none
    if checksum not in (None, _checksum(fields)):
        raise ValueError("its checksum is wrong")
    entry = Registration(**{**fields, "source": parse_source(fields["source"])})
    texts = (entry.dataset, entry.sha256, entry.fingerprint)
    if entry.batch != batch or not all(isinstance(text, str | None) for text in texts):
        raise ValueError(f"it registers no batch {batch}")
    return entry


def _damaged(paths: Paths, batch: str, error: Exception) -> BatchError:
    return BatchError(
        f"{paths.registration(batch)} is damaged ({error}): remove the batch"
        f" (captcha-assets batch remove {batch}) and add it again"
    )


def all_registrations(paths: Paths) -> list[Registration]:
    """Return all registrations in order of their names."""
    names = sorted(path.stem for path in paths.registrations.glob("*.json"))
    return [entry for name in names if (entry := registration(paths, name)) is not None]


def known_batches(paths: Paths) -> list[str]:
    """Return the names of all batches, sorted: those registered and those whose archive is here."""
    registered = {path.stem for path in paths.registrations.glob("*.json")}
    present = {path.stem for path in paths.raw.glob("*.zip")}
    return sorted(name for name in registered | present if BATCH_NAME.fullmatch(name))


def _paths_of(paths: Paths, batch: str) -> list[AnyPath]:
    """Return where a batch may lie, in the order in which it is removed.

    What its name is known by, the archive and the registration, goes last: after a kill it can be removed
    again. The quality report goes first: without it no index takes the tables.
    """
    return [
        paths.validation_results("image_table", batch),
        paths.validation_results("drift", batch),
        paths.image_table(batch),
        paths.rejected_images(batch),
        _unfinished_archive(paths, batch),
        archive_path(paths, batch),
        paths.registration(batch),
    ]


def has_left(paths: Paths, batch: str) -> bool:
    """Whether anything of a batch lies on the disk, its tables without its archive included."""
    return any(_lies(path) for path in _paths_of(paths, batch))


def _lies(path: AnyPath) -> bool:
    return path.exists() or (isinstance(path, Path) and path.is_symlink())


def remove(paths: Paths, batch: str, progress: Progress = _silent) -> None:
    """Remove a batch: its tables, reports, archive and registration. Split assignments stay.

    Killed at any moment, a second call ends in the same state. A fetch under way is waited for; so is another
    process that removes the batch, after which nothing is left to do.

    Raises:
        BatchError: there is no such batch, or the disk cannot be written to.
    """
    check_batch_name(batch)
    if not has_left(paths, batch):
        raise unknown_batch(paths, batch)
    with _plain_errors(f"{batch} cannot be removed"), _locked(paths, batch, progress):
        if not has_left(paths, batch):
            return
        _finish_fetch(paths, batch)
        for path in _paths_of(paths, batch):
            remove_path(path)


def _finish_fetch(paths: Paths, batch: str) -> None:
    """Let a fetch that was killed while it cleared the inbox finish, so that no hidden file stays there."""
    try:
        known = registration(paths, batch)
    except BatchError:
        return  # damaged, and about to go
    archive = archive_path(paths, batch)
    if known is None or not in_inbox(paths, known) or not archive.exists():
        return
    aside = _aside(known)
    if aside is not None and aside.exists() and archives.digest_of(archive).sha256 == known.sha256:
        _clear_inbox(paths, known, archive)


def unknown_batch(paths: Paths, batch: str) -> BatchError:
    """Return the error that says that nothing is known of a batch."""
    return BatchError(f"there is no batch {batch}; known are: {_listed(paths)}")


def _listed(paths: Paths) -> str:
    return ", ".join(known_batches(paths)) or "none"


def fetch(settings: Settings, batch: str, progress: Progress = _silent) -> RawBatch:
    """Bring a batch's archive into `data/raw`, or check the one that lies there, and describe it.

    An archive that is not what is registered, since it is damaged or since other content was registered,
    is replaced as a whole, provided the source has what is registered; else it stays. Killed at any
    moment, a second call ends in the same archive.

    Args:
        settings: where things are kept.
        batch: name of the batch.
        progress: is handed one line at a time, from another thread too.

    Raises:
        BatchError: there is no such batch, its source cannot be read or is not what it was, the
            archive is damaged, or the disk is full.
    """
    check_batch_name(batch)
    target = archive_path(settings.paths, batch)
    with _plain_errors(f"{batch} cannot be fetched"), _locked(settings.paths, batch, progress):
        known = registration(settings.paths, batch)
        if known is None:
            if not target.exists():
                raise BatchError(
                    f"there is no batch {batch} (known are: {_listed(settings.paths)}): bring its archive "
                    f"{how_to_restore(target, 'data.dvc')}, register it (captcha-assets batch add {batch} "
                    f"SOURCE), or remove what is left of it (captcha-assets batch remove {batch})"
                )
            _check_recorded(settings.paths, batch, target)
            return _describe(target, None)
        here = archives.digest_of(target).sha256 if target.exists() else None
        if here is not None and known.sha256 is None and isinstance(known.source, FileSource):
            known = record(settings.paths, replace(known, sha256=here))  # registered before hashes were
        if here is None or here != known.sha256:
            known = _bring(settings, known, here, progress)
        raw = _describe(target, known)
        _clear_inbox(settings.paths, known, target)
    return raw


def _check_recorded(paths: Paths, batch: str, archive: AnyPath) -> None:
    """Reject an archive that DVC brought and that is not what `data.dvc` records: its remote is damaged."""
    if not isinstance(paths.data, Path):
        return
    recorded = (dvc_snapshot.recorded_md5s(paths.home) or {}).get(f"raw/{archive.name}")
    if recorded not in (None, archives.digest_of(archive).md5):
        raise BatchError(
            f"{archive} is not what data.dvc records (its MD5 is not {recorded}), so that DVC's remote is "
            "damaged: bring the archive from another copy, or remove the batch (captcha-assets batch remove "
            f"{batch}) and add it again from its source"
        )


@contextmanager
def _locked(paths: Paths, batch: str, progress: Progress = _silent) -> Iterator[None]:
    """Let one process at a time work on a batch; the lock goes with the process."""
    with locks.exclusive(
        paths, batch, lambda: progress(f"{batch}: another process works on it; waiting until it ends")
    ):
        yield


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Say in one line what the system did not allow."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            message = f"{what}: no space left on the disk or in the quota; free some and run it again"
        else:
            message = f"{what}: {error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise BatchError(message) from error


def _unfinished_archive(paths: Paths, batch: str) -> Path:
    return paths.scratch / "deliveries" / f"{batch}.zip"


def _bring(settings: Settings, known: Registration, here: str | None, progress: Progress) -> Registration:
    """Write the archive, record its hash, move it to its path.

    Args:
        settings: where things are kept.
        known: what is registered.
        here: hash of the archive that lies at this place and is not what is registered, None without one.
        progress: see `fetch`.
    """
    target = archive_path(settings.paths, known.batch)
    unfinished = _unfinished_archive(settings.paths, known.batch)
    progress(f"{known.batch}: fetching {known.source}")
    try:
        with replacing(unfinished) as part, _restoring(target, known, here):
            now = _same(known, _write(settings, known, part, progress))
            archives.contents(part)
            if _is_anothers(known, now, here):
                raise _other_archive(target, known)
            record(settings.paths, now)
        move(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    progress(f"{known.batch}: {target.stat().st_size:,} bytes in {target}")
    return now


def _is_anothers(known: Registration, now: Registration, here: str | None) -> bool:
    """Whether the archive here was brought by DVC, and no registration allows to replace it."""
    never_fetched = known.sha256 is None and not known.is_to_be_asked
    return never_fetched and here not in (None, now.sha256)


@contextmanager
def _restoring(archive: AnyPath, known: Registration, here: str | None) -> Iterator[None]:
    """Where a lost or damaged archive cannot be had from its source, say so, and how to restore it."""
    try:
        yield
    except BatchError as error:
        if known.sha256 is None:
            raise
        state = (
            f"is not what is registered (sha256 {here[:12]} instead of {known.sha256[:12]})"
            if here
            else "is missing"
        )
        raise BatchError(
            f"{archive} {state}, and its source does not have it: {error}. {_made_again(known.batch)}Restore"
            f" the archive {how_to_restore(archive, 'data.dvc')}, put the source back, or remove the batch"
            f" (captcha-assets batch remove {known.batch})"
        ) from error


def _made_again(batch: str) -> str:
    """Return a sentence on how to make the archive of a batch again; empty where only a copy helps."""
    from captcha_assets.sources.correction_batches import day_of  # noqa: PLC0415 - it takes OpenCV along

    day = day_of(batch)
    if day is None:
        return ""
    return f"Make it again from the prediction log: captcha-assets backfill corrections --days {day}. Or: "


def _write(settings: Settings, known: Registration, part: Path, progress: Progress) -> Registration:
    """Write the archive to `part`; return the registration with what is now known of it."""
    source = known.source
    if isinstance(source, FileSource):
        _check_file(source.path)
        digest, fingerprint = archives.archive_to(source.path, part)
        return replace(known, sha256=digest.sha256, fingerprint=fingerprint)
    if isinstance(source, KaggleSource):
        return _download(settings, known, part, progress)
    from captcha_assets.sources import synthetic_batches  # noqa: PLC0415 - its fonts and images take a second

    synthetic_batches.write_archive(part, source.count, source.seed)
    return replace(known, sha256=archives.digest_of(part).sha256)


def _download(settings: Settings, known: Registration, part: Path, progress: Progress) -> Registration:
    from captcha_assets.sources import kaggle  # noqa: PLC0415 - its client takes a second to import

    assert isinstance(known.source, KaggleSource)
    # what is restored is the version of then; what was never fetched, or is looked up again, may be newer
    version = (known.kaggle_version if known.sha256 else None) or known.source.version
    got = kaggle.download(
        known.dataset or _dataset(settings),
        version,
        part,
        settings.paths.scratch / "kaggle",
        progress,
    )
    return replace(known, sha256=archives.digest_of(part).sha256, kaggle_version=got.version)


def _same(known: Registration, now: Registration) -> Registration:
    """Return `now`, provided it is the content that is registered."""
    if known.sha256 not in (None, now.sha256):
        again = f"captcha-assets batch add {known.batch} {shlex.quote(str(known.source))}"
        raise BatchError(
            f"{known.source} is not any more what was registered as {known.batch} (sha256"
            f" {str(now.sha256)[:12]} instead of {str(known.sha256)[:12]}): register it again ({again}), or"
            " restore the archive with `dvc pull`"
        )
    return now


def _describe(archive: AnyPath, known: Registration | None) -> RawBatch:
    with fetched(archive) as local:
        digest: Digest = archives.digest_of(local)
        held = archives.contents(local)
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


def _aside(known: Registration) -> Path | None:
    """Where in the inbox a batch is moved to before it is removed; None for one that came another way."""
    path = known.source.path if isinstance(known.source, FileSource) else None
    return path.with_name(f".taken-{known.batch}") if isinstance(path, Path) else None


def in_inbox(paths: Paths, known: Registration) -> bool:
    """Whether a batch comes from the inbox."""
    inbox = paths.inbox.resolve() if isinstance(paths.inbox, Path) else paths.inbox
    return isinstance(known.source, FileSource) and known.source.path.parent == inbox


def came_by_inbox(paths: Paths, batch: str) -> bool:
    """Whether a batch is registered from the inbox; what cannot be read is not."""
    try:
        known = registration(paths, batch)
    except BatchError:
        return False
    return known is not None and in_inbox(paths, known)


def waiting_in_inbox(paths: Paths, batch: str) -> AnyPath | None:
    """Return where in the inbox a registered batch lies that has not been fetched from there yet."""
    try:
        known = registration(paths, batch)
    except BatchError:
        return None
    if known is None or not isinstance(known.source, FileSource) or not in_inbox(paths, known):
        return None
    return known.source.path if known.source.path.exists() else None


def _clear_inbox(paths: Paths, known: Registration, archive: AnyPath) -> None:
    """Remove a batch from the inbox now that its archive is safe.

    It is moved aside under a hidden name first, so that a kill half-way leaves nothing in sight that
    would look like another batch. What the archive does not hold is put back.
    """
    if not in_inbox(paths, known):
        return
    assert isinstance(known.source, FileSource)
    path, aside = known.source.path, _aside(known)
    if aside is None or not isinstance(path, Path):
        _remove_object(path, known)
        return
    if not aside.exists() and path.exists():
        path.rename(aside)
    if not aside.exists():
        return
    with fetched(archive) as local:
        removed = archives.remove_archived(aside, local)
    if not removed and not path.exists():
        aside.rename(path)


def _remove_object(path: AnyPath, known: Registration) -> None:
    """Remove an object from the inbox, unless another one has taken its place since it was read."""
    try:
        found = archives.survey(path)
    except FileNotFoundError:
        return
    if found.fingerprint == known.fingerprint:
        remove_path(path)


def finish_taking(paths: Paths) -> None:
    """Remove from the inbox what a killed fetch had moved aside there, its archive being safe."""
    if not isinstance(paths.inbox, Path):
        return  # an object is not moved aside
    for aside in sorted(paths.inbox.glob(".taken-*")):
        batch = aside.name.removeprefix(".taken-")
        if BATCH_NAME.fullmatch(batch) and archive_path(paths, batch).exists():
            with _plain_errors(f"{batch} cannot be removed from the inbox"), _locked(paths, batch):
                _finish_fetch(paths, batch)
