"""The log of predictions and of the labels that people give to them.

`record` puts a prediction into a bounded buffer and returns; one thread writes the buffer, in groups, twice
a second. What does not fit is counted. A database that is locked, full or gone keeps its rows in the
buffer, is shown as `error`, and is tried again every second. Each process opens a log of its own, after it is
forked.
"""

import itertools
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from captcha_assets.serving.prediction_log_tables import (
    INFERENCE_ID,
    TIMEOUT,
    Correction,
    LoggedPrediction,
    Prediction,
    PredictionLogUrlError,
    UnreadableRowError,
    as_stored,
    check_types,
    correction_batches,
    corrections,
    create_schema,
    insert_predictions,
    logged,
    open_engine,
    predictions,
    reader_of,
    sqlite_file,
    to_rows,
)

__all__ = [
    "INFERENCE_ID",
    "Correction",
    "LoggedPrediction",
    "Prediction",
    "PredictionLog",
    "PredictionLogUnavailableError",
    "PredictionLogUrlError",
    "UnknownClassError",
    "UnknownPredictionError",
    "open_prediction_log",
]

#: Seconds between two writes; a killed process loses little more. A transaction of few rows is dear.
INTERVAL = 0.5
#: Seconds until a database that could not be written to is tried again.
RETRY = 1.0
#: Most rows of a transaction.
GROUP = 250
#: Most bytes of images and their pixels in the buffer, however few they are.
BUFFERED_BYTES = 64 << 20
#: Among so many of the latest predictions the least certain are looked for.
RECENT = 1_000
#: Seconds between two removals of what is older than the retention.
RETENTION_INTERVAL = 3600.0

_LONGEST_ANNOTATOR = 200
#: SQLite's codes of a file that is damaged.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_logger = logging.getLogger(__name__)


class PredictionLogUnavailableError(RuntimeError):
    """The database cannot be read or written to now."""


class UnknownPredictionError(LookupError):
    """There is no prediction of this id in the log."""


class UnknownClassError(ValueError):
    """A label that is none of the classes of the prediction's model."""


def open_prediction_log(
    url: str, *, buffer: int = 10_000, sampling: float = 1.0, retention_days: int | None = None
) -> "PredictionLog":
    """Return the prediction log at a database address; the database need not be reachable yet.

    Args:
        url: `sqlite:////absolute/path` or `postgresql://user:password@host/database`.
        buffer: most predictions that wait to be written.
        sampling: share of the predictions that is logged, chosen by a hash of the inference id.
        retention_days: a day's predictions without a correction are removed after so many days; None keeps
            them.

    Raises:
        PredictionLogUrlError: the address is none of such a database.
    """
    return PredictionLog(open_engine(url), buffer, sampling, retention_days)


class PredictionLog:
    """A prediction log; see `open_prediction_log`.

    Attributes:
        written: predictions that this process wrote.
        dropped: predictions that this process could not keep.
        repeated: predictions whose inference id was in the log already; the first one stays.
        error: why the database cannot be written to, None where it can.
    """

    def __init__(self, engine: sa.Engine, buffer: int, sampling: float, retention_days: int | None) -> None:
        self._engine, self._buffer, self._sampling = engine, buffer, sampling
        self._retention = None if retention_days is None else timedelta(days=retention_days)
        self._removes_at = 0.0
        self.written = self.dropped = self.repeated = 0
        self.error: str | None = None
        self._lock = threading.Lock()  # of all that follows
        self._settled = threading.Condition(self._lock)
        self._waiting: dict[str, Prediction] = {}
        self._waiting_bytes = 0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._schema_lock = threading.Lock()
        self._prepared: tuple[int, int] | None = None
        self._writer = threading.Thread(target=self._write, name="prediction log", daemon=True)
        self._writer.start()

    # --- predictions

    def record(self, prediction: Prediction) -> bool:
        """Put a prediction into the buffer; never waits for the database.

        Returns:
            False where the buffer is full or the log is closed: the prediction is dropped, and counted.
        """
        if not self._is_sampled(prediction.inference_id):
            return True
        size = _size(prediction)
        with self._lock:
            if prediction.inference_id in self._waiting:
                self.repeated += 1
                return True
            full = len(self._waiting) >= self._buffer or self._waiting_bytes + size > BUFFERED_BYTES
            if full or self._closing.is_set():
                self.dropped += 1
                return False
            self._waiting[prediction.inference_id] = prediction
            self._waiting_bytes += size
            is_a_group = len(self._waiting) == GROUP
        if is_a_group:
            self._wake.set()
        return True

    def _is_sampled(self, inference_id: str) -> bool:
        return self._sampling >= 1 or zlib.crc32(inference_id.encode()) < self._sampling * 2**32

    @property
    def waiting(self) -> int:
        """Number of predictions in the buffer."""
        return len(self._waiting)

    def prediction(self, inference_id: str) -> LoggedPrediction:
        """Return a prediction with its latest correction; one that is still in the buffer, too.

        Raises:
            UnknownPredictionError: there is none of this id, or its row is damaged.
            PredictionLogUnavailableError: the database cannot be read.
        """
        with self._lock:
            waiting = self._waiting.get(inference_id)
        if waiting is not None:
            return LoggedPrediction(**vars(waiting))
        with self._connection() as connection:
            query = as_stored(logged().where(predictions.c.inference_id == inference_id))
            row = connection.execute(query).mappings().first()
            read = reader_of(connection)
        if row is None:
            raise UnknownPredictionError(f"no prediction has the inference id {inference_id[:200]!r}")
        try:
            found = read(row)
            check_types(found)
        except UnreadableRowError as error:
            message = f"the log's row of the inference id {inference_id!r} is damaged: {error}"
            raise UnknownPredictionError(message) from error
        return found

    def recent(
        self, limit: int, order: Literal["latest", "least certain"] = "latest"
    ) -> list[LoggedPrediction]:
        """Return some of the latest predictions, each with its latest correction.

        Args:
            limit: most predictions to return.
            order: "latest" first, or "least certain" first: of the latest 1,000 without a correction.

        A row that is damaged is left out.

        Raises:
            PredictionLogUnavailableError: the database cannot be read.
        """
        self.flush(INTERVAL)
        query = logged().order_by(predictions.c.time.desc()).limit(limit)
        if order == "least certain":
            latest = sa.select(predictions.c.inference_id, predictions.c.score).where(
                ~sa.exists().where(corrections.c.inference_id == predictions.c.inference_id)
            )
            latest_few = latest.order_by(predictions.c.time.desc()).limit(RECENT).subquery()
            few = sa.select(latest_few.c.inference_id).order_by(latest_few.c.score).limit(limit)
            query = logged().where(predictions.c.inference_id.in_(few)).order_by(predictions.c.score)
        with self._connection() as connection:
            return _readable(connection, query)

    # --- corrections

    def correct(self, inference_id: str, label: str, annotator: str | None = None) -> Correction:
        """Store the label that a person gives to a prediction's image; it supersedes earlier ones.

        Raises:
            UnknownPredictionError: there is no prediction of this id.
            UnknownClassError: the label is none of the classes of its model.
            PredictionLogUnavailableError: the database cannot be written to; nothing is stored.
        """
        if annotator is not None and not (annotator.isprintable() and len(annotator) <= _LONGEST_ANNOTATOR):
            raise ValueError(f"an annotator is named in at most {_LONGEST_ANNOTATOR} printable characters")
        found = self.prediction(inference_id)
        if label not in found.classes:
            raise UnknownClassError(f"{label[:50]!r} is not one of the classes {', '.join(found.classes)}")
        if not self._is_settled(inference_id, TIMEOUT, unless_broken=True):
            raise PredictionLogUnavailableError(f"the prediction {inference_id!r} cannot be written now")
        insert = corrections.insert().values(
            inference_id=inference_id, time=datetime.now(UTC), label=label, annotator=annotator
        )
        try:
            with self._connection() as connection:
                stored = connection.execute(insert.returning(*corrections.c)).mappings().one()
        except IntegrityError:  # the retention, or the flood that dropped it, was faster
            raise UnknownPredictionError(f"no prediction has the inference id {inference_id!r}") from None
        return Correction(**stored)

    def corrections(self, inference_id: str) -> list[Correction]:
        """Return all corrections of a prediction, the earliest first.

        Raises:
            PredictionLogUnavailableError: the database cannot be read.
        """
        query = corrections.select().where(corrections.c.inference_id == inference_id)
        with self._connection() as connection:
            return [Correction(**row) for row in connection.execute(query.order_by("id")).mappings()]

    def pending_corrections(self) -> int:
        """Return the number of corrected predictions whose latest correction is in no batch yet.

        Raises:
            PredictionLogUnavailableError: the database cannot be read.
        """
        latest = sa.select(sa.func.max(corrections.c.id).label("id")).group_by(corrections.c.inference_id)
        waiting = latest.except_(sa.select(correction_batches.c.correction_id)).subquery()
        with self._connection() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(waiting)).scalar_one()

    # --- the database

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction; an error that a row causes is raised as it is."""
        try:
            self._prepare()
            with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            self._prepared = None
            if _is_of_a_row(error):
                raise
            raise PredictionLogUnavailableError(why_unusable(self._engine, error)) from error

    def _prepare(self) -> None:
        """Create the tables where they don't exist, also where the file was removed meanwhile."""
        with self._schema_lock:
            file = sqlite_file(self._engine)
            if self._prepared is None or self._prepared != _identity(file):
                self._engine.dispose()  # connections to a file that was removed go on writing to it
                create_schema(self._engine)
                self._prepared = _identity(file)

    # --- the thread that writes

    def flush(self, timeout: float = TIMEOUT) -> bool:
        """Wait until the buffer is written, for some seconds at most.

        Returns:
            Whether all that was in the buffer is settled: written, repeated or dropped.
        """
        with self._lock:
            last = next(reversed(self._waiting), None)
        return last is None or self._is_settled(last, timeout)

    def _is_settled(self, inference_id: str, timeout: float, *, unless_broken: bool = False) -> bool:
        """Wait until a prediction has left the buffer, or the database turns out to be unavailable."""
        with self._settled:
            if inference_id in self._waiting:
                self._wake.set()
                self._settled.wait_for(
                    lambda: inference_id not in self._waiting or (unless_broken and self.error), timeout
                )
            return inference_id not in self._waiting

    def close(self) -> None:
        """Write what is in the buffer, or count it as dropped where that fails, and close the log."""
        with self._lock:
            self._closing.set()
        self._wake.set()
        self._writer.join()
        if self.dropped:
            _logger.error("%d predictions are not in the prediction log: they were dropped", self.dropped)
        self._engine.dispose()

    def __enter__(self) -> "PredictionLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self) -> None:
        """Write the buffer and remove what is too old, again and again until the log is closed."""
        is_last = False
        while not is_last:
            self._wake.wait(INTERVAL)
            self._wake.clear()
            is_last = self._closing.is_set()
            try:
                while group := self._next_group():
                    self._write_group(group)
                self._remove_old()
            except PredictionLogUnavailableError as error:
                self._set_error(str(error))
                if is_last:
                    self._settle(list(self._waiting.values()), written=0, dropped=len(self._waiting))
                self._closing.wait(RETRY)
            else:
                self._set_error(None)

    def _set_error(self, error: str | None) -> None:
        if error and not self.error:
            _logger.error("%s; predictions wait in the buffer, %d fit", error, self._buffer)
        elif self.error and not error:
            _logger.warning("the prediction log is written again; %d predictions were dropped", self.dropped)
        with self._settled:
            self.error = error
            self._settled.notify_all()

    def _next_group(self) -> list[Prediction]:
        with self._lock:
            return list(itertools.islice(self._waiting.values(), GROUP))

    def _write_group(self, group: list[Prediction]) -> None:
        """Write predictions in one transaction, or each in its own where one of them cannot be written."""
        try:
            with self._connection() as connection:
                written = insert_predictions(connection, to_rows(group))
        except SQLAlchemyError as error:
            if len(group) > 1:
                for prediction in group:
                    self._write_group([prediction])
            else:
                _logger.warning("a prediction cannot be logged: %s", reason_of(error))
                self._settle(group, written=0, dropped=1)
        else:
            self._settle(group, written=written)

    def _settle(self, group: list[Prediction], *, written: int, dropped: int = 0) -> None:
        """Count what became of predictions, and take them out of the buffer."""
        with self._settled:
            for prediction in group:
                del self._waiting[prediction.inference_id]
                self._waiting_bytes -= _size(prediction)
            self.written += written
            self.dropped += dropped
            self.repeated += len(group) - written - dropped
            self._settled.notify_all()

    def _remove_old(self) -> None:
        """Remove what is older than the retention, once an hour; see to it that the database is there."""
        if self._prepared is None:
            with self._connection():
                pass
        if self._retention is None or time.monotonic() < self._removes_at:
            return
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        old = sa.select(predictions.c.inference_id).where(
            predictions.c.time < today - self._retention,  # whole days, as the assets hold them
            ~sa.exists().where(corrections.c.inference_id == predictions.c.inference_id),
        )
        some = predictions.delete().where(predictions.c.inference_id.in_(old.limit(GROUP)))
        removed = GROUP
        while removed == GROUP:
            with self._connection() as connection:
                removed = connection.execute(some).rowcount
        self._removes_at = time.monotonic() + RETENTION_INTERVAL


def _readable(connection: sa.Connection, query: sa.Select[Any]) -> list[LoggedPrediction]:
    """Return the predictions that a query of `logged()` finds, without those whose row is damaged."""
    read, found = reader_of(connection), []
    for row in connection.execute(as_stored(query)).mappings():
        with suppress(UnreadableRowError):
            one = read(row)
            check_types(one)
            found.append(one)
    return found


def _size(prediction: Prediction) -> int:
    """Return the bytes of a prediction's image and of its pixels."""
    return len(prediction.image) + (0 if prediction.pixels is None else prediction.pixels.nbytes)


def _identity(file: Path | None) -> tuple[int, int]:
    """Return what distinguishes a database's file from one that takes its place."""
    if file is None:
        return (0, 0)
    try:
        found = file.stat()
    except FileNotFoundError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _is_of_a_row(error: SQLAlchemyError | OSError) -> bool:
    """Say whether an error is caused by what is written, and not by the database."""
    if isinstance(error, DBAPIError):
        return isinstance(error, DataError | IntegrityError)
    return isinstance(error, StatementError)  # a value that cannot be converted


def why_unusable(engine: sa.Engine, error: SQLAlchemyError | OSError) -> str:
    """Return why a log cannot be used, where it is, and what to do where its file is damaged."""
    where = sqlite_file(engine) or engine.url.render_as_string(hide_password=True)
    why = f"the prediction log cannot be used: {reason_of(error)} ({where})"
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        why += (
            ": move it and its -wal and -shm files away, and the service starts a new one; to restore a "
            "backup, stop the service first"
        )
    return why


def reason_of(error: SQLAlchemyError | OSError) -> str:
    """Return the first line of what the database says, without the statement and its values."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    return str(cause).strip().partition("\n")[0]
