"""Dagster's SQLite storages, as ever but for what they make anew each time: in tests it is made once.

For each connection they make an engine, which compiles every statement that it has not seen. For each
database, which means for each run, they load all migrations. Connections are opened and closed as before.
"""

from typing import Any

import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

_load_migrations = ScriptDirectory.from_config
_MIGRATIONS: dict[str | None, ScriptDirectory] = {}
_ENGINES: dict[str, sa.Engine] = {}


def _migrations(config: Config) -> ScriptDirectory:
    place = config.get_main_option("script_location")
    if place not in _MIGRATIONS:
        _MIGRATIONS[place] = _load_migrations(config)
    return _MIGRATIONS[place]


def _engine(url: str, **options: Any) -> sa.Engine:
    if url not in _ENGINES:
        _ENGINES[url] = sa.create_engine(url, **options)
    return _ENGINES[url]


def reuse() -> None:
    """Let the storages of this process, and of those that it forks, reuse engines and migrations."""
    ScriptDirectory.from_config = _migrations
    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        storage.create_engine = _engine
