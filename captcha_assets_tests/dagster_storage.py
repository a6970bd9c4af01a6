"""Dagster's SQLite storages and the definitions: what they make anew each time is made once in tests.

For each connection the storages make an engine, which compiles every statement that it has not seen. For each
database, which means for each run, they load all migrations. Connections are opened and closed as before.
The definitions are loaded anew by each command, and never changed.
"""

import os
from functools import cache
from typing import Any

import dagster as dg
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage

from captcha_assets import definitions
from captcha_assets.serving.settings import wanted_precision

_load_definitions = definitions.defs
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


@cache
def _loaded(dataset: str | None, precision: str) -> dg.Definitions:
    return _load_definitions()


def _definitions() -> dg.Definitions:
    return _loaded(os.environ.get("CAPTCHA_DATASET"), wanted_precision())


def reuse() -> None:
    """Let this process, and those that it forks, reuse engines, migrations and definitions."""
    definitions.defs = _definitions
    ScriptDirectory.from_config = _migrations
    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        storage.create_engine = _engine
