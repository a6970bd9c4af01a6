"""The prediction log by day: which days there are, and a day's predictions as a table.

A row is a prediction with its latest correction, in the order of the time. Days are days in UTC.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
import xxhash
from sqlalchemy.exc import SQLAlchemyError

from captcha_assets.atomic_files import AnyPath, remove, replacing
from captcha_assets.images.table import TableWriter
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, why_unusable
from captcha_assets.serving.prediction_log_tables import (
    STATISTICS,
    Correction,
    LoggedPrediction,
    UnreadableRowError,
    as_stored,
    correction_batches,
    corrections,
    create_schema,
    insert_missing,
    logged,
    open_engine,
    predictions,
    reader_of,
    shown,
    sqlite_file,
)

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

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("inference_id", _TEXT, nullable=False),
        pa.field("reason", _TEXT, nullable=False),
    ]
)

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
        rejected: why a row of the log is not in the table, by its inference id.
    """

    predictions: int
    corrected: int
    disagreeing: int
    by_label: dict[str, int]
    by_model: dict[str, int]
    version: str
    rejected: dict[str, str]


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """Yield a connection to a log in a transaction; the tables are created where they don't exist.

    Raises:
        PredictionLogUnavailableError: the database cannot be used.
    """
    engine = open_engine(url, _TIMEOUT)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
    try:
        create_schema(engine)
        with engine.begin() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise PredictionLogUnavailableError(why_unusable(engine, error)) from error
    finally:
        engine.dispose()


def exists(url: str) -> bool:
    """Return whether there may be a log at an address: an SQLite file exists, a server is named."""
    file = sqlite_file(open_engine(url))
    return file is None or file.exists()


class _ContentHash:
    """An SQLite aggregate: the sum of the hashes of rows, whatever their order."""

    def __init__(self) -> None:
        self._sum = 0

    def step(self, *values: bytes | None) -> None:
        """Take the values of a row in."""
        row = b"\0".join(b"\1" if value is None else value for value in values)
        self._sum += xxhash.xxh3_64_intdigest(row)

    def finalize(self) -> str:
        """Return the sum of all rows."""
        return str(self._sum)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.create_aggregate("content_hash", -1, _ContentHash)


def _content(dialect: str, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[str]:
    """Return the aggregate that is another one when any value of any row is."""
    if dialect == "postgresql":
        row = sa.cast(sa.tuple_(*columns), sa.Text)
        return sa.cast(sa.func.sum(sa.cast(sa.func.hashtextextended(row, 0), sa.Numeric)), sa.Text)
    return sa.func.content_hash(*(sa.cast(column, sa.LargeBinary) for column in columns))


def day_versions(url: str) -> dict[str, str]:
    """Return each day that has predictions with the version of its rows, in order of the days.

    The version is another one when rows come, go or change. Of an image its length and its hash count, not
    its bytes. The versions of an SQLite file are computed once for as long as the file does not change.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    file = sqlite_file(open_engine(url))
    if file is None:
        return _day_versions(url)
    return dict(_day_versions_of_file(url, _stamp(file))) if file.exists() else {}


def _stamp(file: Path) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what changes whenever something is written to an SQLite database."""
    found = []
    for path in (file, Path(f"{file}-wal")):
        with suppress(FileNotFoundError):  # SQLite removes the second one when it is not needed
            found.append(path.stat())
    return tuple((one.st_size, one.st_mtime_ns, one.st_ino) if one.st_size else None for one in found)


@lru_cache(maxsize=1)
def _day_versions_of_file(url: str, stamp: object) -> dict[str, str]:  # noqa: ARG001 - the cache's key
    return _day_versions(url)


def _day_versions(url: str) -> dict[str, str]:
    day = sa.func.date(predictions.c.time, type_=sa.String).label("day")
    image = predictions.c.image
    row = [sa.func.length(image) if column is image else column for column in predictions.c]
    with connected(url) as connection:
        dialect = connection.dialect.name
        counted = sa.select(day, sa.func.count(), _content(dialect, row)).group_by("day")
        corrected = (
            sa.select(day, sa.func.max(corrections.c.id), _content(dialect, list(corrections.c)))
            .join_from(corrections, predictions)
            .group_by("day")
        )
        rows = {key: found for key, *found in connection.execute(counted).tuples() if key is not None}
        given = {key: found for key, *found in connection.execute(corrected).tuples()}
    versions = {}
    for key, (count, content) in rows.items():
        latest, labels = given.get(key, (0, ""))
        versions[str(key)] = f"{count}-{latest}-{xxhash.xxh3_64_hexdigest(f'{content} {labels}'.encode())}"
    return dict(sorted(versions.items()))


def without_day(url: str) -> list[str]:
    """Return the inference ids of the rows whose time cannot be read: they belong to no day.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    if not exists(url):
        return []
    day = sa.func.date(predictions.c.time, type_=sa.String)
    with connected(url) as connection:
        found = connection.execute(sa.select(predictions.c.inference_id).where(day.is_(None)))
        return sorted(shown(name) for name in found.scalars())


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


def write_day(url: str, day: str, table: AnyPath, rejected: AnyPath) -> DailySummary:
    """Write the predictions of a day as a Parquet table, complete or not at all.

    A row that cannot be read goes to another table, with the reason. It stays in the log.

    Args:
        url: address of the log.
        day: `YYYY-MM-DD`.
        table: where the table goes.
        rejected: where the table of the rejected rows goes; none is there where no row is rejected.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    labels: Counter[str] = Counter()
    models: Counter[str] = Counter()
    corrected = disagreeing = 0
    reasons: dict[str, str] = {}
    with replacing(table) as part, TableWriter(part, DAILY_SCHEMA) as writer:
        for found, batch, unreadable in _groups_of_day(url, day):
            writer.write(batch)
            reasons |= unreadable
            labels.update(one.label for one in found)
            models.update(one.model_version for one in found)
            given = [(one.label, one.correction.label) for one in found if one.correction]
            corrected += len(given)
            disagreeing += sum(predicted != label for predicted, label in given)
    _write_rejected(reasons, rejected)
    return DailySummary(
        predictions=labels.total(),
        corrected=corrected,
        disagreeing=disagreeing,
        by_label=dict(labels.most_common()),
        by_model=dict(models.most_common()),
        version=writer.version,
        rejected=reasons,
    )


def _write_rejected(reasons: Mapping[str, str], table: AnyPath) -> None:
    if not reasons:
        remove(table)
        return
    rows = [{"inference_id": name, "reason": reason} for name, reason in reasons.items()]
    with replacing(table) as part, TableWriter(part, REJECTED_SCHEMA) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, REJECTED_SCHEMA))


#: Rows that can be read, the same as rows of the table, and why other rows cannot be read, by inference id.
_Group = tuple[list[LoggedPrediction], pa.RecordBatch, dict[str, str]]


def _groups_of_day(url: str, day: str) -> Iterator[_Group]:
    """Yield the rows of a day in groups, in order of the time."""
    begin = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    query = logged().where(predictions.c.time >= begin, predictions.c.time < begin + timedelta(days=1))
    query = query.order_by(predictions.c.time, predictions.c.inference_id)
    with connected(url) as connection:
        read = reader_of(connection)
        stored = as_stored(query).execution_options(yield_per=_ROWS)
        for rows in connection.execute(stored).mappings().partitions():
            yield _separated(rows, read)


def _separated(rows: Sequence[sa.RowMapping], read: Callable[[sa.RowMapping], LoggedPrediction]) -> _Group:
    found: list[LoggedPrediction] = []
    rejected: dict[str, str] = {}
    for row in rows:
        try:
            found.append(read(row))
        except UnreadableRowError as error:
            rejected[shown(row["inference_id"])] = str(error)
    try:
        return found, _batch(found), rejected
    except _OTHER_TYPE:
        unfit = {one.inference_id: why for one in found if (why := _why_unfit(_daily_row(one)))}
        fit = [one for one in found if one.inference_id not in unfit]
        return fit, _batch(fit), rejected | unfit


def _batch(found: list[LoggedPrediction]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(map(_daily_row, found)), DAILY_SCHEMA)


#: What Arrow raises where a value is not of the type of its column.
_OTHER_TYPE = (pa.ArrowException, TypeError, ValueError, OverflowError)


def _why_unfit(row: Mapping[str, Any]) -> str | None:
    """Return which value of a row of the table is not of the type of its column; None where all are."""
    for field in DAILY_SCHEMA:
        try:
            pa.array([row[field.name]], field.type)
        except _OTHER_TYPE:
            return f"{field.name} is not of type {field.type}: {shown(row[field.name])}"
    return None


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
        UnreadableRowError: the prediction's row is damaged.
        PredictionLogUnavailableError: the database cannot be read.
    """
    if not exists(url):
        return None
    given = corrections.select().where(corrections.c.inference_id == inference_id).order_by(corrections.c.id)
    with connected(url) as connection:
        query = as_stored(logged().where(predictions.c.inference_id == inference_id))
        rows = connection.execute(query).mappings().all()
        if not rows:
            return None
        found = [Correction(**row) for row in connection.execute(given).mappings()]
        batches = connection.execute(
            correction_batches.select().where(correction_batches.c.correction_id.in_(one.id for one in found))
        ).tuples()
        named = [(number, batch) for number, batch in batches]
        try:
            prediction = reader_of(connection)(rows[0])
        except UnreadableRowError as error:
            message = f"the prediction log's row of the inference id {inference_id!r} is damaged: {error}"
            raise UnreadableRowError(message) from error
    return prediction, [
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
