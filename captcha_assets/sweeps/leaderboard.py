"""All trials, the best first: those that are complete by accuracy, then the stopped, then the failed."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import replacing
from captcha_assets.images import table_parts
from captcha_assets.images.table import content_hash
from captcha_assets.paths import Paths
from captcha_assets.sweeps import trial_records
from captcha_assets.sweeps.definition import SweepError, all_registered
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED, Record

#: State of a trial that has not ended: it waits, or is under way.
WAITING = "waiting"

SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("trial", pa.string()),
        ("sweep", pa.string()),
        ("state", pa.string()),
        ("accuracy", pa.float64()),
        ("epochs", pa.int32()),
        ("parameters", pa.string()),
        ("settings", pa.string()),
        ("current", pa.bool_()),
        ("splits_version", pa.string()),
        ("code_version", pa.string()),
        ("error", pa.string()),
    ]
)

#: The columns that the first ranks are shown with, and how many of them.
SHOWN = ("rank", "trial", "state", "accuracy", "epochs", "parameters")
_FIRST = 20

DESCRIPTIONS = {
    "rank": "1 is the best; none for what is not complete, or was trained on other images",
    "accuracy": "on the validation split, after the last epoch that was trained",
    "parameters": "what the sweep varied, JSON",
    "settings": "all settings of the training, JSON",
    "current": "trained on the images of today's splits",
}


def splits_now(paths: Paths) -> str:
    """Return the data version of today's splits; empty where there are none yet."""
    return table_parts.version_of(paths.splits) if table_parts.exists(paths.splits) else ""


def ranked(records: Sequence[Record], splits_version: str) -> list[Record]:
    """Return the records, the best first; what was trained on other images comes last."""
    order = {COMPLETE: 0, PRUNED: 1, FAILED: 2}

    def rank(record: Record) -> Any:
        outdated = record.splits_version != splits_version
        return outdated, order[record.state], -(record.value or 0), record.trial

    return sorted(records, key=rank)


def rows(records: Sequence[Record], splits_version: str) -> list[dict[str, Any]]:
    """Return the leaderboard, a row a trial."""
    rows = []
    for rank, record in enumerate(ranked(records, splits_version), 1):
        current = record.splits_version == splits_version
        rows.append(
            {
                "rank": rank if current and record.state == COMPLETE else None,
                "trial": record.trial,
                "sweep": record.sweep,
                "state": record.state,
                "accuracy": record.value,
                "epochs": len(record.history),
                "parameters": json.dumps(record.parameters),
                "settings": json.dumps(record.settings),
                "current": current,
                "splits_version": record.splits_version,
                "code_version": record.code_version,
                "error": record.error,
            }
        )
    return rows


def first_ranks(paths: Paths, records: Sequence[Record]) -> list[dict[str, str]]:
    """Return the first rows of the leaderboard, with the columns of `SHOWN`, as text."""
    first = rows(records, splits_now(paths))[:_FIRST]
    return [{name: "" if row[name] is None else str(row[name]) for name in SHOWN} for row in first]


def waiting(paths: Paths, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the registered trials that have no record, as rows like those of `rows`."""
    ended = {record.trial for record in records}
    empty: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    return [
        {
            **empty,
            "trial": name,
            "sweep": sweep.identity,
            "state": WAITING,
            "parameters": json.dumps(sweep.combination(number) if sweep.grid else {}),
            "settings": json.dumps(sweep.fixed),
        }
        for sweep in all_registered(paths)
        for number, name in enumerate(sweep.trial_names)
        if name not in ended
    ]


def write(paths: Paths, records: Sequence[Record]) -> str:
    """Write the leaderboard and return the hash of its content."""
    table = pa.Table.from_pylist(rows(records, splits_now(paths)), schema=SCHEMA)
    with replacing(paths.sweep_leaderboard) as part:
        pq.write_table(table, part)
    return content_hash(paths.sweep_leaderboard)


def best(paths: Paths, trial: str | None = None) -> Record:
    """Return the best complete trial on today's splits, or the complete trial of that name.

    Raises:
        SweepError: there is none.
    """
    if trial is not None:
        record = trial_records.load(paths, trial)
        if record is None or record.state != COMPLETE:
            raise SweepError(f"{trial} is no complete trial; see: captcha-assets sweep show")
        return record
    version = splits_now(paths)
    for record in ranked(trial_records.load_all(paths), version):
        if record.state == COMPLETE and record.splits_version == version:
            return record
    raise SweepError("no trial is complete on today's images: captcha-assets sweep run FILE")
