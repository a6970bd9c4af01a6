"""Backup of what no update can compute again, as one zip; and its restoration.

    manifest.json       when and of which home it was made, and the SHA-256 of every other member
    home/...            Dagster's instance, the split assignments, label decisions, production settings,
                        alerts, DVC's record, archives of corrections; the archives of batches on request
    artifacts/...       registrations, the registry and all that belongs to its models, sweeps
    prediction_log.db   the prediction log with its corrections, as SQLite whatever its database is

Tables and reports are not in it: the next update computes them from the archives, with the same data
versions. Nothing has to be stopped: databases are copied by SQLite's online backup, and the registry's
records before the models that they name.
"""

import errno
import hashlib
import json
import shutil
import sqlite3
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
import yaml
from sqlalchemy.exc import SQLAlchemyError

from captcha_assets.atomic_files import AnyPath, fetched, json_text, remove, replacing, write_json
from captcha_assets.models import registry
from captcha_assets.models.manifest import sha256
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.paths import Paths
from captcha_assets.serving import prediction_log_tables
from captcha_assets.text_formats import first_line

MANIFEST, LOG = "manifest.json", "prediction_log.db"
_FORMAT = 1

#: Files and folders of the home that are kept.
_OF_HOME = (".dvcignore", ".dvc/config", "configs/sweep.yaml", ".serving/corrections", "alerts.jsonl")
#: What else is kept, of the home or, with the profile `shared`, of the store; `data/raw` on request.
_OF_SHARED_ROOT = (
    "data.dvc", "data/splits", "label_decisions.csv", "configs/training.yaml", "corrections", "alerts",
)  # fmt: skip
_ARCHIVES = "data/raw"
#: Artifacts that are kept, records before what they name; the number of the latest change before that.
_OF_ARTIFACTS = (
    "dataset.json", "deliveries", "models/latest_change.json", "models/history", "models/refused",
    "models/decisions", "models", "training_summary", "evaluation", "onnx_model", "quantized_model",
    "drift_reference", "sweep", "sweep_trial", "sweep_leaderboard.parquet",
)  # fmt: skip
#: Databases of Dagster's instance, and files beside them.
_OF_INSTANCE = ("history", "schedules", "storage", "dagster.yaml", "captcha_home")
#: Ends of the names of SQLite's own files beside a database: the copy of the database holds what is in them.
_BESIDE_DATABASES = ("-wal", "-shm", "-journal")

_ROWS = 1000
#: Bytes that are read of a file at once.
_CHUNK = 1 << 20
#: Seconds after which a file that was not there is tried once more.
_PAUSE = 0.2
#: Members that are never left out.
_OF_REGISTRY_HISTORY = "artifacts/models/history"


class BackupError(RuntimeError):
    """A backup that cannot be made or restored; the message names the file and says what to do."""


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        made: time in UTC, ISO 8601.
        home: the home that it was made of.
        profile: its profile, `local` or `shared`.
        files: SHA-256 of every member but the manifest, by name.
        left_out: what it lacks and a person must keep otherwise, one line each.
    """

    made: str
    home: str
    files: dict[str, str]
    left_out: tuple[str, ...]
    profile: str = "local"


# --- making one


def create(
    paths: Paths, dagster_home: Path, log: str | None, target: Path, *, archives: bool = False
) -> Backup:
    """Write a backup of a home to `target`, complete or not at all.

    Args:
        paths: of the home.
        dagster_home: the folder of the Dagster instance.
        log: address of the prediction log's database; None where nothing is logged.
        target: the zip to write.
        archives: whether the archives of the batches are in it, too.

    Raises:
        BackupError: `target` is there already, lies among what is kept, or a file of the home is damaged.
    """
    if kept := _kept_below(paths, dagster_home, target):
        raise BackupError(f"{target} lies in {kept}, which is backed up: name a file outside of it")
    if target.exists():
        raise BackupError(f"{target} is there already: give a new name")
    if not target.parent.is_dir():  # a disk that is not mounted, perhaps
        raise BackupError(f"{target.parent} is not there: create the folder, or give another one")
    files: dict[str, str] = {}
    with (
        replacing(target) as part,
        TemporaryDirectory(prefix="captcha-assets-") as folder,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as zipped,
    ):
        for name, path in _members(paths, dagster_home, log, Path(folder), archives=archives):
            if name not in files and (digest := _added_unless_gone(zipped, name, path)):
                files[name] = digest
        left_out = tuple(_left_out(paths, dagster_home, archives=archives))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Backup(now, str(paths.home), files, left_out, paths.profile)
        zipped.writestr(MANIFEST, json_text({"format": _FORMAT, **vars(made)}))
    return made


def _kept_below(paths: Paths, dagster_home: Path, target: Path) -> AnyPath | None:
    """Return the folder of the home that a backup is about and that `target` lies in; None: it is in none."""
    folders = (paths.data, paths.inbox, paths.artifact_root, dagster_home, paths.serving)
    place = target.resolve()
    return next(
        (one for one in folders if isinstance(one, Path) and place.is_relative_to(one.resolve())), None
    )


def _added_unless_gone(zipped: zipfile.ZipFile, name: str, path: AnyPath) -> str | None:
    """Add a file, and return its SHA-256; None where it was removed since the files were listed."""
    try:
        return _add(zipped, name, path)
    except FileNotFoundError:
        time.sleep(_PAUSE)  # its folder is being replaced, perhaps
    try:
        return _add(zipped, name, path)
    except FileNotFoundError:
        if name.startswith(f"{_OF_REGISTRY_HISTORY}/"):  # where every change is kept
            raise
        return None


def _add(zipped: zipfile.ZipFile, name: str, path: AnyPath) -> str:
    """Add a file, and return its SHA-256: of the very bytes that were added."""
    digest = hashlib.sha256()
    with (
        fetched(path) as local,
        local.open("rb") as source,
        zipped.open(name, "w", force_zip64=True) as member,
    ):
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            member.write(chunk)
    return digest.hexdigest()


def _members(
    paths: Paths, dagster_home: Path, log: str | None, work: Path, *, archives: bool
) -> Iterator[tuple[str, AnyPath]]:
    """Yield the name and the file of each member; databases are copied to `work` first, and removed after."""
    for name in _OF_HOME:
        yield from ((f"home/{inside}", file) for inside, file in _files(paths.home, name))
    for name in (*_OF_SHARED_ROOT, *([_ARCHIVES] if archives else [])):
        yield from ((f"home/{inside}", file) for inside, file in _files(paths.shared_root, name))
    for name in _OF_INSTANCE:
        for inside, file in _files(dagster_home, name):
            if inside.endswith(".db"):
                if copy := _copied(file, work):
                    yield f"home/.dagster/{inside}", copy
                    copy.unlink()  # the runs of years are thousands of databases
            elif not inside.endswith(_BESIDE_DATABASES):
                yield f"home/.dagster/{inside}", file
    for name in _OF_ARTIFACTS:
        yield from ((f"artifacts/{inside}", file) for inside, file in _files(paths.artifact_root, name))
    if log and (copy_of_log := _copy_of_log(log, work / LOG)):
        yield LOG, copy_of_log


def _files(root: AnyPath, name: str) -> Iterator[tuple[str, AnyPath]]:
    """Yield a file, or the files of a folder, by their path below `root`; not what is being written."""
    place: Any = root / name
    listed = sorted(place.rglob("*"), key=str) if place.is_dir() else [place]
    for file in [file for file in listed if file.is_file()]:  # what is gone later is noticed
        inside = str(file).removeprefix(f"{root}/")
        if ".tmp/" not in inside:
            yield inside, file


def _copied(database: AnyPath, work: Path) -> Path | None:
    """Copy an SQLite database that may be in use; return None where there is none.

    Raises:
        BackupError: it is damaged.
    """
    copy = work / f"{len(list(work.iterdir()))}.db"
    try:
        # Its address and its mode, since one that was removed by now would be created anew.
        address = f"{Path(str(database)).absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            found = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if not database.exists():
            copy.unlink(missing_ok=True)
            return None
        raise BackupError(f"{database} cannot be read: {error}") from error
    if found != "ok":
        raise BackupError(f"{database} is damaged: {found.splitlines()[-1]}")
    return copy


def _left_out(paths: Paths, dagster_home: Path, *, archives: bool) -> Iterator[str]:
    if not archives and paths.raw.is_dir():
        kept = (
            "DVC has them where it has a remote" if isinstance(paths.raw, Path) else f"{paths.raw} has them"
        )
        yield f"the archives of the batches: {kept} (backup create --archives takes them along)"
    configured = dagster_home / "dagster.yaml"
    if configured.exists() and "storage" in (yaml.safe_load(configured.read_text()) or {}):
        yield "Dagster's runs and events: the database that dagster.yaml names has them (use pg_dump)"
    try:
        registry.history(paths.models)
    except RegistryError as error:
        yield f"the whole history of the champion: {error}"


# --- the prediction log


def _copy_of_log(url: str, target: Path) -> Path | None:
    """Copy a prediction log into a new SQLite file; return None where there is no log yet.

    Raises:
        BackupError: the log cannot be read.
    """
    engine = prediction_log_tables.open_engine(url)
    file = prediction_log_tables.sqlite_file(engine)
    try:
        if file is not None:
            return _copied(file, target.parent)
        if not sa.inspect(engine).has_table(prediction_log_tables.predictions.name):
            return None
        _copy_rows(engine, prediction_log_tables.open_engine(f"sqlite:///{target}"))
    except (SQLAlchemyError, OSError) as error:
        raise BackupError(f"the prediction log cannot be read: {_of_database(error)}") from error
    finally:
        engine.dispose()
    return target


def _copy_rows(source: sa.Engine, target: sa.Engine) -> None:
    """Copy all rows of the log from one database into another, which has none."""
    prediction_log_tables.create_schema(target)
    with source.connect() as reading, target.begin() as writing:
        for table in prediction_log_tables.metadata.sorted_tables:
            rows = reading.execution_options(yield_per=_ROWS).execute(table.select()).mappings()
            for group in rows.partitions(_ROWS):
                writing.execute(table.insert(), [dict(row) for row in group])
        if target.dialect.name == "postgresql":  # its own numbers go on after those that were copied
            number = prediction_log_tables.corrections.c.id
            sequence = sa.func.pg_get_serial_sequence(number.table.name, number.name)
            writing.execute(sa.select(sa.func.setval(sequence, sa.func.max(number))))
    target.dispose()


def _of_database(error: Exception) -> str:
    """Return the first line of what the database says, without the statement that SQLAlchemy adds."""
    return first_line(getattr(error, "orig", None) or error)


# --- restoring


def restore(paths: Paths, dagster_home: Path, log: str | None, backup: Path) -> Backup:
    """Restore a backup into a home that has not been used.

    All is unpacked and checked first, so that a damaged backup changes nothing. A restoration that was killed
    goes on where it was when it is started again with the same backup.

    Args:
        paths: of the home.
        dagster_home: the folder of its Dagster instance.
        log: address of its prediction log's database; None where nothing is logged.
        backup: the zip that `create` wrote.

    Raises:
        BackupError: it is no backup or damaged, or the home is in use.
    """
    found = read(backup, paths.profile)
    unpacked, finished = paths.unfinished_restoration, paths.finished_restoration
    shutil.rmtree(finished, ignore_errors=True)  # of a restoration that was killed while it removed it
    if not _is_of(unpacked, found):
        _check_unused(paths, dagster_home, log)
        shutil.rmtree(unpacked, ignore_errors=True)
        unpacked.mkdir(parents=True)
        _unpack(backup, found, unpacked)
    _put_into_place(found, unpacked, paths, dagster_home, log)
    unpacked.rename(finished)  # a folder that is removed in part would count as an unfinished restoration
    shutil.rmtree(finished)
    return found


def read(backup: Path, profile: str) -> Backup:
    """Return what a backup says of itself.

    Args:
        backup: the zip.
        profile: that of the home that it is restored into.

    Raises:
        BackupError: it is none, or of a home with the other profile.
    """
    found = _read(backup)
    if found.profile != profile:
        raise BackupError(
            f"{backup} is of a home with the profile {found.profile}: set CAPTCHA_PROFILE={found.profile}"
        )
    return found


def _read(backup: Path) -> Backup:
    if backup.exists() and not backup.is_file():
        raise BackupError(f"{backup} is no backup: it is no regular file")
    try:
        with zipfile.ZipFile(backup) as zipped:
            said: Any = json.loads(zipped.read(MANIFEST))
            if said.pop("format") != _FORMAT:
                raise BackupError(f"{backup} is a backup of a later version: update the code first")
            files, left_out = dict(said["files"]), tuple(said["left_out"])
            return Backup(said["made"], said["home"], files, left_out, said.get("profile", "local"))
    except FileNotFoundError as error:
        raise BackupError(f"{backup} does not exist") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise BackupError(f"{backup} is no backup, or damaged: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError(f"{backup} is no backup: it has no {MANIFEST}, or another one") from error


def _is_of(unpacked: Path, found: Backup) -> bool:
    """Whether an unfinished restoration unpacked all of this backup, and what is left of it is whole."""
    try:
        if json.loads((unpacked / MANIFEST).read_text()) != found.files:
            return False
    except (OSError, ValueError, RecursionError):  # there is none, or it is damaged
        return False
    left = ((unpacked / name, expected) for name, expected in found.files.items())
    return all(sha256(file) == expected for file, expected in left if file.exists())


def _check_unused(paths: Paths, dagster_home: Path, log: str | None) -> None:
    used = [
        str(place) for place in (paths.models, paths.registrations) if place.exists() and any(place.iterdir())
    ]
    # A command that only looks creates the databases; each run has one of its own.
    if any((dagster_home / "history" / "runs").glob("*-*-*-*-*.db")):
        used.append(f"a run in {dagster_home}")
    if log and _has_rows(log):
        used.append("the prediction log")
    if used:
        raise BackupError(
            f"a backup is restored into a home that was not used yet, and here is {', '.join(used)}: choose "
            "another CAPTCHA_HOME, or move this one away"
        )


def _has_rows(log: str) -> bool:
    engine = prediction_log_tables.open_engine(log)
    file = prediction_log_tables.sqlite_file(engine)
    try:
        if file is not None and not file.exists():
            return False
        table = prediction_log_tables.predictions
        with engine.connect() as connection:
            return sa.inspect(connection).has_table(table.name) and bool(
                connection.execute(table.select().limit(1)).first()
            )
    except (SQLAlchemyError, OSError) as error:
        raise BackupError(f"the prediction log cannot be used: {_of_database(error)}") from error
    finally:
        engine.dispose()


def _unpack(backup: Path, found: Backup, target: Path) -> None:
    """Unpack all members, each with the hash that the manifest says; its list is written last."""
    try:
        with zipfile.ZipFile(backup) as zipped:
            problem = next(
                filter(None, (_fault(zipped, *entry, target) for entry in found.files.items())), None
            )
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        problem = str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BackupError(f"no space left for {target}: free some and restore again") from error
        raise
    if problem:
        shutil.rmtree(target)
        raise BackupError(f"{backup} is damaged: {problem}; nothing was restored")
    write_json(target / MANIFEST, found.files)


def _fault(zipped: zipfile.ZipFile, name: str, expected: str, target: Path) -> str | None:
    """Unpack a member, and return what is wrong with it."""
    if name != LOG and not _may_hold(name):
        return f"it names {name!r}"
    zipped.extract(name, target)
    return None if sha256(target / name) == expected else f"{name} has another SHA-256"


def _may_hold(name: str) -> bool:
    """Whether a backup may have a member of this name: nothing else of a home is ever written."""
    root, _, inside = name.partition("/")
    kept = {
        "home": (*_OF_HOME, *_OF_SHARED_ROOT, _ARCHIVES, *(f".dagster/{one}" for one in _OF_INSTANCE)),
        "artifacts": _OF_ARTIFACTS,
    }
    return ".." not in PurePosixPath(name).parts and _lies_in(inside, kept.get(root, ()))


def _lies_in(inside: str, names: Iterable[str]) -> bool:
    """Whether a path is one of these files and folders, or lies in one of the folders."""
    return any(PurePosixPath(inside).is_relative_to(name) for name in names)


def _put_into_place(found: Backup, unpacked: Path, paths: Paths, dagster_home: Path, log: str | None) -> None:
    """Move the files to where they belong, what the registry's records name before the records."""
    for name in reversed(found.files):
        file = unpacked / name
        if not file.exists():  # moved before this restoration was killed
            continue
        if name == LOG:
            _put_log(file, log)
            continue
        root, _, inside = name.partition("/")
        if inside.startswith(".dagster/"):
            target: AnyPath = dagster_home / inside.removeprefix(".dagster/")
        elif root == "home":
            shared = _lies_in(inside, (*_OF_SHARED_ROOT, _ARCHIVES))
            target = (paths.shared_root if shared else paths.home) / inside
        else:
            target = paths.artifact_root / inside
        for beside in _BESIDE_DATABASES if inside.endswith(".db") else ():
            remove(target.with_name(target.name + beside))  # of a database that only was looked at
        with replacing(target) as part:
            shutil.copyfile(file, part)
        file.unlink()


def _put_log(copy: Path, log: str | None) -> None:
    """Put the log into its database; where nothing is logged now, it stays in the backup alone."""
    if log is None:
        return
    engine = prediction_log_tables.open_engine(log)
    file = prediction_log_tables.sqlite_file(engine)
    if file is None:
        if not _has_rows(log):
            _copy_rows(prediction_log_tables.open_engine(f"sqlite:///{copy}"), engine)
    else:
        with replacing(file) as part:
            shutil.copyfile(copy, part)
