"""Dagster's SQLite storages make an engine for each connection; in tests they make one for each database.

An engine compiles every statement that it has not seen, which takes a fifth of the time of a run in a test's
home. Connections are opened and closed as before.
"""

from typing import Any

import sqlalchemy as sa
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage


def reuse() -> None:
    """Let the storages of this process, and of those that it forks, reuse their engines."""
    engines: dict[str, sa.Engine] = {}

    def engine(url: str, **options: Any) -> sa.Engine:
        if url not in engines:
            engines[url] = sa.create_engine(url, **options)
        return engines[url]

    for storage in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        storage.create_engine = engine
