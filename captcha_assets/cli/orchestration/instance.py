"""The Dagster instance of a home: `<home>/.dagster`, created with this project's settings at first use.

In the profile `shared`, that folder holds `dagster.yaml` and the locked files of this host's processes; runs,
events and partitions are in the database.
"""

import os
import shutil
import tempfile
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
import yaml

from captcha_assets import locks
from captcha_assets.atomic_files import create, replacing
from captcha_assets.cli.orchestration import database_store
from captcha_assets.defs.dagster_internals import open_instance_at
from captcha_assets.defs.killed_runs import fail_killed_runs
from captcha_assets.defs.observed_sources import observe
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.run_alerts import alert_about
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources.batch_registration import known_batches

_DAGSTER_YAML = """\
telemetry:
  enabled: false
# No welcome dialog over the asset graph.
nux:
  enabled: false
# `dg launch` prints what assets log, without Dagster's events, which the UI shows.
python_logs:
  python_log_level: INFO
# One training at a time; other pools are created when an asset names one.
concurrency:
  pools:
    default_limit: 1
# A run that asks for it by its tag dagster/max_retries is tried again.
run_retries:
  enabled: true
  max_retries: 0
# A run whose process was killed is ended, and what it held is free again.
run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 30
"""

#: What a dagster.yaml says besides in the profile `shared`. The address itself, a secret, is in no file.
_DATABASE_YAML = """\
  # A run that has lasted a day is ended, whichever host executes it: that host may be gone.
  max_runtime_seconds: 86400
# Runs, events, partitions, schedules.
storage:
  custom:
    module: captcha_assets.cli.orchestration.postgres_storage
    class: PostgresStorage
    config:
      postgres_url:
        env: CAPTCHA_DATABASE
"""
_CLASS = "captcha_assets.cli.orchestration.postgres_storage"


#: How the name of the folder of incomplete databases begins.
_UNFINISHED = ".unfinished-"


@sa.event.listens_for(sa.Engine, "handle_error")
def _name_the_file(context: sa.ExceptionContext) -> None:
    """Note the file of an SQLite database on its error, which does not name it: see `errors.in_one_line`."""
    error, engine = context.sqlalchemy_exception, context.engine
    if error is None or engine is None or engine.dialect.name != "sqlite":
        return
    file = str(engine.url.database)
    if _UNFINISHED not in file:  # that one is gone when the error is said
        error.add_note(file)


class InstanceError(RuntimeError):
    """The Dagster instance cannot be used; the message says what to do."""


def dagster_home(paths: Paths) -> Path:
    """The instance's folder: DAGSTER_HOME where it is set, else the home's own.

    Raises:
        InstanceError: DAGSTER_HOME is a relative path, which Dagster does not accept either.
    """
    folder = Path(os.environ.get("DAGSTER_HOME") or paths.dagster_home).expanduser()
    if not folder.is_absolute():
        raise InstanceError(
            f"DAGSTER_HOME={str(folder)!r} cannot be used: give an absolute path, or unset it (then it is "
            f"{paths.dagster_home})"
        )
    folder = folder.resolve()
    if not (folder / "dagster.yaml").exists():
        with replacing(folder / "dagster.yaml") as part:
            part.write_text(_DAGSTER_YAML + (_DATABASE_YAML if paths.shared_database else ""))
    return folder


def _check_profile(paths: Paths, home: Path) -> None:
    """Reject the instance of a home that was made with the other profile: its runs are in another place."""
    made_shared = _CLASS in (home / "dagster.yaml").read_text()
    if made_shared == (paths.profile == "shared"):
        return
    made, file = "shared" if made_shared else "local", home / "dagster.yaml"
    raise InstanceError(
        f"CAPTCHA_PROFILE={paths.profile} cannot be used with {file}, which was made with the profile "
        f"{made}: set CAPTCHA_PROFILE={made}, or use another CAPTCHA_HOME (docs/shared.md)"
    )


def _create_databases(home: Path) -> None:
    """Create the databases of a new instance in a temporary folder, and move them when they are complete.

    Dagster takes a database that exists for complete: one whose creation was killed would always lack tables.
    """
    for left in home.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left)
    missing = [home / name for name in ("history", "schedules") if not (home / name).exists()]
    with (home / "dagster.yaml").open() as file:
        configured = yaml.safe_load(file) or {}
    if not missing or any("storage" in name for name in configured):
        return
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=home) as folder:
        (Path(folder) / "dagster.yaml").touch()  # Dagster would warn that there is none
        with open_instance_at(Path(folder)):
            pass
        for database in missing:
            (Path(folder) / database.name).rename(database)


def _check_owner(paths: Paths, home: Path) -> None:
    """Reject an instance of another home: all its outputs would be recorded as missing."""
    if home == paths.dagster_home.resolve():  # wherever the home has been moved to
        return
    if paths.component.exists():
        raise InstanceError(
            f"DAGSTER_HOME={home} cannot be used with {paths.home}, the home of the component "
            f"{paths.component.read_text().strip()}: there, other assets have the names "
            f"that this command knows; unset DAGSTER_HOME (then it is {paths.dagster_home})"
        )
    owner = home / "captcha_home"
    known = (owner.read_text().strip() if owner.exists() else None) or None
    if known is None and home.name == paths.dagster_home.name and (home.parent / "data").is_dir():
        known = str(home.parent)
    if known not in (None, str(paths.home)):
        raise InstanceError(
            f"DAGSTER_HOME={home} belongs to the home {known}, and CAPTCHA_HOME is {paths.home}: unset "
            f"DAGSTER_HOME (then it is {paths.dagster_home}), or set both"
        )
    if known is None and paths.profile == "local" and (paths.dagster_home / "history").exists():
        raise InstanceError(
            f"DAGSTER_HOME={home} has no records of {paths.home}: they are in {paths.dagster_home}; unset "
            "DAGSTER_HOME, or move that folder away to begin anew"
        )
    if not owner.exists():
        create(owner, f"{paths.home}\n")


def _check_store(paths: Paths, instance: dg.DagsterInstance) -> None:
    """Reject a database whose runs are about another store: all outputs would be recorded as missing."""
    known = instance.run_storage.get_cursor_values({database_store.KEY}).get(database_store.KEY)
    database_store.compare(paths, known)
    if known is None:
        instance.run_storage.set_cursor_values({database_store.KEY: str(paths.artifacts)})


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Open the instance, fail the runs of killed commands, and record the batches and sources."""
    home = dagster_home(settings.paths)
    _check_profile(settings.paths, home)
    _check_owner(settings.paths, home)
    # Two processes that open a new instance at once would both create its tables.
    with locks.exclusive(settings.paths, "_opening"):
        _create_databases(home)
        instance = open_instance_at(home)
        if settings.paths.shared_database:
            _check_store(settings.paths, instance)
        for lost in fail_killed_runs(instance):
            alert_about(instance, lost, settings)
        known = set(instance.get_dynamic_partitions(BATCH))
        new = [name for name in known_batches(settings.paths) if name not in known]
        if new:
            instance.add_dynamic_partitions(BATCH, new)
        observe(settings, instance)
    return instance
