"""The prediction log by day: which days there are, and a day's predictions as a table.

A row is a prediction with its latest correction, in the order of the time. Days are days in UTC.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from captcha_assets.images.table import TableWriter
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, reason_of
from captcha_assets.serving.prediction_tables import (
    STATISTICS,
    Correction,
    LoggedPrediction,
    correction_batches,
    corrections,
    create_schema,
    from_row,
    insert_missing,
    logged,
    open_engine,
    predictions,
    sqlite_file,
)
from captcha_assets.storage import AnyPath, replacing

_TEXT, _REAL, _TIME = pa.string(), pa.float64(), pa.timestamp("us", tz="UTC")

DAILY_SCHEMA = pa.schema(
    [
        pa.field("inference_id", _TEXT, nullable=False),
        pa.field("time", _TIME, nullable=False),
        pa.field("model_name", _TEXT, nullable=False),
        pa.field("model_version", _TEXT, nullable=False),
        pa.field("model_digest", _TEXT, nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_hash", _TEXT, nullable=False),
        pa.field("label", _TEXT, nullable=False),
        pa.field("score", _REAL, nullable=False),
        pa.field("classes", pa.list_(_TEXT), nullable=False),
        pa.field("probabilities", pa.list_(_REAL), nullable=False),
        *(pa.field(name, _REAL) for name in STATISTICS),
        pa.field("status", pa.int32(), nullable=False),
        pa.field("queue_seconds", _REAL, nullable=False),
        pa.field("compute_seconds", _REAL, nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("correction_id", pa.int64()),
        pa.field("corrected_label", _TEXT),
        pa.field("corrected_at", _TIME),
        pa.field("annotator", _TEXT),
    ]
)
COLUMN_DESCRIPTIONS: dict[str, str] = {
    "inference_id": "Names the prediction; the caller's, or generated.",
    "time": "When the answer was given, UTC.",
    "model_name": "Name of the model that answered.",
    "model_version": "Version of the model that answered.",
    "model_digest": "Hash of the file of the model that answered.",
    "image": "The image as received.",
    "image_hash": "Hash of these bytes, as `file_hash` in `image_table`.",
    "label": "The predicted class.",
    "score": "The probability of the predicted class.",
    "classes": "The classes of the model.",
    "probabilities": "The probability of each of these classes.",
    "brightness": "Mean gray value, 0 to 255.",
    "contrast": "Standard deviation of the gray values.",
    "foreground_fraction": "Share of pixels darker than the middle of the scale, 0 to 1.",
    "status": "HTTP status of the answer.",
    "queue_seconds": "How long the image waited.",
    "compute_seconds": "How long the model took for the mini-batch.",
    "batch_size": "Images in the mini-batch.",
    "correction_id": "Number of the latest correction; empty where nobody corrected the prediction.",
    "corrected_label": "The class that a person gave to the image.",
    "corrected_at": "When the person gave it, UTC.",
    "annotator": "Who gave it, where that is known.",
}

#: Rows that are in memory at once.
_ROWS = 1_000
#: Seconds that a statement may take: no request waits for it.
_TIMEOUT = 60


@dataclass(frozen=True)
class DailySummary:
    """What the table of a day holds.

    Attributes:
        predictions: number of rows.
        corrected: rows with a correction.
        disagreeing: rows whose correction is another class than the predicted one.
        by_label: number of predictions of each class, most frequent first.
        by_model: number of predictions of each model version.
        version: data version of the table.
    """

    predictions: int
    corrected: int
    disagreeing: int
    by_label: dict[str, int]
    by_model: dict[str, int]
    version: str


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """Yield a connection to a log in a transaction; the tables are created where they don't exist.

    Raises:
        PredictionLogUnavailableError: the database cannot be used.
    """
    engine = open_engine(url, _TIMEOUT)
    try:
        create_schema(engine)
        with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        message = f"the prediction log cannot be used: {reason_of(error)}"
        raise PredictionLogUnavailableError(message) from error
    finally:
        engine.dispose()


def exists(url: str) -> bool:
    """Return whether there may be a log at an address: an SQLite file exists, a server is named."""
    file = sqlite_file(open_engine(url))
    return file is None or file.exists()


def day_versions(url: str) -> dict[str, str]:
    """Return each day that has predictions, with what changes when rows come or go, in order of the days.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    if not exists(url):
        return {}
    day = sa.func.date(predictions.c.time, type_=sa.String).label("day")
    counted = sa.select(day, sa.func.count()).group_by("day")
    corrected = sa.select(day, sa.func.max(corrections.c.id)).join_from(corrections, predictions)
    with connected(url) as connection:
        counts = {str(key): number for key, number in connection.execute(counted).tuples()}
        latest = {str(key): number for key, number in connection.execute(corrected.group_by("day")).tuples()}
    return {key: f"{counts[key]}-{latest.get(key, 0)}" for key in sorted(counts)}


def waiting_corrections(url: str) -> dict[str, int]:
    """Return how many corrected predictions are in no batch yet, by the day of the prediction.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    latest = sa.select(sa.func.max(corrections.c.id).label("id")).group_by(corrections.c.inference_id)
    waiting = latest.except_(sa.select(correction_batches.c.correction_id)).subquery()
    day = sa.func.date(predictions.c.time, type_=sa.String).label("day")
    counted = (
        sa.select(day, sa.func.count())
        .join_from(corrections, predictions)
        .where(corrections.c.id.in_(sa.select(waiting.c.id)))
        .group_by("day")
    )
    with connected(url) as connection:
        return {str(key): number for key, number in connection.execute(counted).tuples()}


def write_day(url: str, day: str, table: AnyPath) -> DailySummary:
    """Write the predictions of a day as a Parquet table, complete or not at all.

    Args:
        url: address of the log.
        day: `YYYY-MM-DD`.
        table: where the table goes.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    begin = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    query = (
        logged()
        .where(predictions.c.time >= begin, predictions.c.time < begin + timedelta(days=1))
        .order_by(predictions.c.time, predictions.c.inference_id)
        .execution_options(yield_per=_ROWS)
    )
    labels: Counter[str] = Counter()
    models: Counter[str] = Counter()
    corrected = disagreeing = 0
    with replacing(table) as part, TableWriter(part, DAILY_SCHEMA) as writer, connected(url) as connection:
        for rows in connection.execute(query).mappings().partitions():
            found = [from_row(row) for row in rows]
            writer.write(pa.RecordBatch.from_pylist(list(map(_daily_row, found)), DAILY_SCHEMA))
            labels.update(one.label for one in found)
            models.update(one.model_version for one in found)
            given = [(one.label, one.correction.label) for one in found if one.correction]
            corrected += len(given)
            disagreeing += sum(predicted != label for predicted, label in given)
    return DailySummary(
        predictions=labels.total(),
        corrected=corrected,
        disagreeing=disagreeing,
        by_label=dict(labels.most_common()),
        by_model=dict(models.most_common()),
        version=writer.version,
    )


def _daily_row(found: LoggedPrediction) -> dict[str, Any]:
    correction = found.correction
    row = {**vars(found), **dict.fromkeys(STATISTICS), **found.statistics}
    row["correction_id"] = correction and correction.id
    row["corrected_label"] = correction and correction.label
    row["corrected_at"] = correction and correction.time
    row["annotator"] = correction and correction.annotator
    return {name: row[name] for name in DAILY_SCHEMA.names}


@dataclass(frozen=True)
class CorrectionInBatches:
    """A correction, and the batches that its image became part of."""

    correction: Correction
    batches: list[str]


def find(url: str, inference_id: str) -> tuple[LoggedPrediction, list[CorrectionInBatches]] | None:
    """Return a prediction with all its corrections, the earliest first; None where there is none.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    if not exists(url):
        return None
    given = corrections.select().where(corrections.c.inference_id == inference_id).order_by(corrections.c.id)
    with connected(url) as connection:
        rows = connection.execute(logged().where(predictions.c.inference_id == inference_id)).mappings().all()
        if not rows:
            return None
        found = [Correction(**row) for row in connection.execute(given).mappings()]
        batches = connection.execute(
            correction_batches.select().where(correction_batches.c.correction_id.in_(one.id for one in found))
        ).tuples()
        named = [(number, batch) for number, batch in batches]
    return from_row(rows[0]), [
        CorrectionInBatches(one, sorted(batch for number, batch in named if number == one.id))
        for one in found
    ]


def record_batch(url: str, correction_ids: list[int], batch: str) -> None:
    """Record that corrections are part of a batch; they are not pending any more.

    Raises:
        PredictionLogUnavailableError: the database cannot be written to.
    """
    rows = [{"correction_id": number, "batch": batch} for number in correction_ids]
    with connected(url) as connection:
        if rows:
            connection.execute(insert_missing(connection.dialect.name, correction_batches), rows)
