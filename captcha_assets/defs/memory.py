"""What `state.look` answered, remembered for as long as the same question has the same answer.

Dagster decides what is stale, and that takes it seconds: its storage alone takes as long to import as
Dagster itself. Its answer rests on the code, on what lies in the home, and on what the instance was told;
a key of these three is read without Dagster. The least change of any of them is another key.

Instances that keep their events elsewhere than in their own folder have no key: they are asked each time.
"""

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from captcha_assets.settings import REPOSITORY, Settings
from captcha_assets.sources.deliveries import known_batches
from captcha_assets.storage import write_json

# Every event of an asset, check or run's status is a row of the first; what is deleted is missed in it.
_TOLD = (
    "select count(*), max(id) from event_logs",
    "select asset_key, wipe_timestamp from asset_keys order by asset_key",
    "select partitions_def_name, partition from dynamic_partitions order by 1, 2",
    "select count(*), max(id), max(evaluation_event_storage_id) from asset_check_executions",
)


def key(settings: Settings) -> str | None:
    """Return the key of everything that the answer rests on; None where it cannot be told."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.dagster_home)
    told = _instance(home)
    if told is None:
        return None
    files = [settings.label_decisions, settings.training_settings, home / "dagster.yaml"]
    content = [path.read_text() if path.is_file() else None for path in files]
    said = [_code(), version("dagster"), settings.model_dump_json(), known_batches(settings), content, told]
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()


def recall(settings: Settings, asked: str | None) -> dict[str, Any] | None:
    """Return the answer that was remembered under this key, or None."""
    try:
        known = json.loads(_place(settings).read_text())
    except (OSError, ValueError):
        return None
    return known["answer"] if asked is not None and known.get("key") == asked else None


def remember(settings: Settings, asked: str | None, answer: dict[str, Any]) -> None:
    """Remember an answer.

    Not while a run is under way: that its process is gone, nobody would tell.

    Args:
        settings: where things are kept.
        asked: the key as it was before the question was asked.
        answer: what `state.look` said.
    """
    if asked is not None and not answer["runs"]:
        write_json(_place(settings), {"key": asked, "answer": answer})


def _place(settings: Settings) -> Path:
    return settings.scratch / "status.json"


def _code() -> list[tuple[str, int, int]]:
    """Say which source files there are, and when each was changed."""
    files = sorted((REPOSITORY / "captcha_assets").rglob("*.py"))
    return [(str(path), (stat := path.stat()).st_mtime_ns, stat.st_size) for path in files]


def _instance(home: Path) -> list[Any] | None:
    """Read what the instance was told, from Dagster's own tables; None where they are not as expected."""
    index, told = home / "history" / "runs" / "index.db", home / "dagster.yaml"
    if not index.is_file() or (told.is_file() and "storage" in told.read_text()):
        return None
    try:
        with closing(sqlite3.connect(f"{index.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            return [opened.execute(question).fetchall() for question in _TOLD]
    except sqlite3.Error:
        return None
