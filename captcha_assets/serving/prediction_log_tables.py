"""The database of the prediction log: its tables, how it is opened, and what a row is in Python.

SQLite in WAL mode or PostgreSQL, through SQLAlchemy Core. A row of `predictions` never changes; retention
alone removes rows. `corrections` is append-only: the correction with the highest id counts.
`correction_batches` says which correction went into which batch.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydantic_core import to_json
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.schema import CreateIndex, CreateTable

from captcha_assets.images.features import Statistics

#: Statistics of an image, named as in `image_table`.
STATISTICS = ("brightness", "contrast", "foreground_fraction")

#: What an inference id may be; a caller may choose it.
INFERENCE_ID = re.compile(r"[!-~]{1,200}", re.ASCII)

#: Seconds that a statement waits for a lock, a connection or an answer. No request waits for them.
TIMEOUT = 5

#: Of the advisory lock under which the tables are created in PostgreSQL.
_SCHEMA_LOCK = 7_216_301


class PredictionLogUrlError(ValueError):
    """An address that is none of a database that can be used; the message says what to give."""


class _UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A time with a time zone, stored in UTC without one."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value and value.replace(tzinfo=UTC)


metadata = sa.MetaData()

predictions = sa.Table(
    "predictions",
    metadata,
    sa.Column("inference_id", sa.Text, primary_key=True),
    sa.Column("time", _UtcDateTime, nullable=False, index=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("model_digest", sa.Text, nullable=False),
    sa.Column("image", sa.LargeBinary, nullable=False),
    sa.Column("image_hash", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("score", sa.Double, nullable=False),
    sa.Column("probabilities", sa.JSON, nullable=False),  # {class: probability}, in the model's order
    *(sa.Column(name, sa.Double) for name in STATISTICS),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("queue_seconds", sa.Double, nullable=False),
    sa.Column("compute_seconds", sa.Double, nullable=False),
    sa.Column("batch_size", sa.Integer, nullable=False),
)
corrections = sa.Table(
    "corrections",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("inference_id", sa.ForeignKey(predictions.c.inference_id), nullable=False, index=True),
    sa.Column("time", _UtcDateTime, nullable=False),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("annotator", sa.Text),
    sqlite_autoincrement=True,  # a number is never given twice
)
correction_batches = sa.Table(
    "correction_batches",
    metadata,
    sa.Column("correction_id", sa.ForeignKey(corrections.c.id), primary_key=True),
    sa.Column("batch", sa.Text, primary_key=True),
)


@dataclass(frozen=True)
class Prediction:
    """An answer of the service, and what it was given.

    Attributes:
        inference_id: names the prediction; the caller's, or generated.
        time: when the answer was given.
        model_name: of the model that answered.
        model_version: of the model that answered.
        model_digest: hash of the model's file.
        image: the image as received.
        image_hash: hash of these bytes.
        label: the predicted class.
        score: its probability.
        classes: the model's classes.
        probabilities: of every class, in the same order.
        statistics: of the decoded image, named as in `STATISTICS`.
        status: HTTP status of the answer.
        queue_seconds: how long the image waited.
        compute_seconds: how long the model took for the mini-batch.
        batch_size: images in the mini-batch.
        pixels: the decoded image, uint8 (H, W) or (H, W, 3). Where they are given, the log computes the
            statistics when it writes, of many images at once. They are not stored.

    Raises:
        ValueError: a value that the log cannot hold.
    """

    inference_id: str
    time: datetime
    model_name: str
    model_version: str
    model_digest: str
    image: bytes
    image_hash: str
    label: str
    score: float
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    statistics: Mapping[str, float]
    status: int
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    pixels: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not INFERENCE_ID.fullmatch(self.inference_id):
            raise ValueError("an inference id has 1 to 200 printable ASCII characters and no space")
        if self.time.tzinfo is None:
            raise ValueError("the time of a prediction needs a time zone")
        if len(self.classes) != len(self.probabilities):
            raise ValueError(f"{len(self.probabilities)} probabilities for {len(self.classes)} classes")
        if not self.statistics.keys() <= set(STATISTICS):
            raise ValueError(f"statistics are {', '.join(STATISTICS)}, not {', '.join(self.statistics)}")


@dataclass(frozen=True)
class Correction:
    """A label that a person gave to a prediction's image; it may confirm the predicted one."""

    id: int
    inference_id: str
    time: datetime
    label: str
    annotator: str | None


@dataclass(frozen=True)
class LoggedPrediction(Prediction):
    """A prediction as the log holds it.

    Attributes:
        correction: the latest one, which counts.
    """

    correction: Correction | None = None


_CONVERTED = {"classes", "probabilities", "statistics", "pixels"}
_AS_THEY_ARE = [one.name for one in fields(Prediction) if one.name not in _CONVERTED]


def to_rows(group: Sequence[Prediction]) -> list[dict[str, object]]:
    """Return predictions as rows of `predictions`."""
    return [_to_row(*one) for one in zip(group, _statistics_of(group), strict=True)]


def _to_row(prediction: Prediction, statistics: Mapping[str, float]) -> dict[str, object]:
    row = {name: getattr(prediction, name) for name in _AS_THEY_ARE}
    row["score"] = float(prediction.score)  # NumPy's numbers are none of the database's types
    probabilities = map(float, prediction.probabilities)
    row["probabilities"] = dict(zip(prediction.classes, probabilities, strict=True))
    return row | {name: float(statistics[name]) if name in statistics else None for name in STATISTICS}


def _statistics_of(group: Sequence[Prediction]) -> list[Mapping[str, float]]:
    """Return the statistics of each prediction: of its pixels, or those that it was given."""
    found = [prediction.statistics for prediction in group]
    by_shape: dict[tuple[int, ...], dict[int, NDArray[np.uint8]]] = defaultdict(dict)
    for position, prediction in enumerate(group):
        if prediction.pixels is not None:
            by_shape[prediction.pixels.shape][position] = prediction.pixels
    for images in by_shape.values():
        computed = Statistics(np.stack(list(images.values())))
        columns = [getattr(computed, name).tolist() for name in STATISTICS]
        for position, *values in zip(images, *columns, strict=True):
            found[position] = dict(zip(STATISTICS, values, strict=True))
    return found


def from_row(row: Mapping[Any, Any]) -> LoggedPrediction:
    """Return a row of `logged()` as a prediction with its latest correction."""
    correction = None
    if row["correction_id"] is not None:
        correction = Correction(
            row["correction_id"],
            row["inference_id"],
            row["correction_time"],
            row["correction_label"],
            row["annotator"],
        )
    return LoggedPrediction(
        **{name: row[name] for name in _AS_THEY_ARE},
        classes=tuple(row["probabilities"]),
        probabilities=tuple(row["probabilities"].values()),
        statistics={name: row[name] for name in STATISTICS if row[name] is not None},
        correction=correction,
    )


class UnreadableRowError(ValueError):
    """A row of the log that cannot be read; the message says why."""


#: The columns whose values SQLAlchemy converts: it would stop at the first one that it cannot convert.
_DECODED = ("time", "correction_time", "probabilities")


def as_stored(query: sa.Select[Any]) -> sa.Select[Any]:
    """Return a query of `logged()` whose values are not converted; `reader_of` reads its rows."""
    columns = [
        sa.type_coerce(column, sa.types.NullType()).label(column.key) if column.key in _DECODED else column
        for column in query.selected_columns
    ]
    return query.with_only_columns(*columns, maintain_column_froms=True)


def reader_of(connection: sa.Connection) -> Callable[[Mapping[Any, Any]], LoggedPrediction]:
    """Return what reads a row of `as_stored`; it raises `UnreadableRowError` for one that is damaged."""
    dialect = connection.dialect
    columns = {column.key: column for column in logged().selected_columns}
    readers = {
        name: columns[name].type.dialect_impl(dialect).result_processor(dialect, None) for name in _DECODED
    }

    def read(row: Mapping[Any, Any]) -> LoggedPrediction:
        values = dict(row)
        for name, reader in readers.items():
            try:
                values[name] = reader(values[name]) if reader else values[name]
            except (ValueError, TypeError):
                what = "JSON" if name == "probabilities" else "a date and time"
                raise UnreadableRowError(f"{name} is not {what}: {shown(values[name])}") from None
        if not isinstance(values["probabilities"], dict):
            raise UnreadableRowError("probabilities is not a JSON object of class to probability")
        try:
            return from_row(values)
        except ValueError as error:
            raise UnreadableRowError(str(error)) from error
        except TypeError:
            raise UnreadableRowError("inference_id or time is of another type") from None

    return read


def check_types(found: LoggedPrediction) -> None:
    """Check that every value is of the type of its column.

    Raises:
        UnreadableRowError: a value is not.
    """
    values = {**vars(found), **found.statistics}
    for column in predictions.c:
        if column.name == "probabilities" or column.name not in values:
            continue
        kind = column.type.python_type
        if not isinstance(values[column.name], (int, float) if kind is float else kind):
            raise UnreadableRowError(f"{column.name} is of another type: {shown(values[column.name])}")
    if not all(isinstance(one, int | float) for one in found.probabilities):
        raise UnreadableRowError("a probability is not a number")


def shown(value: object) -> str:
    """Return a value of a row in one short line."""
    text = value if isinstance(value, str) else repr(value)
    return shorten(text, 60, placeholder="...").encode(errors="backslashreplace").decode()


def with_latest_correction() -> sa.Join:
    """Return `predictions`, each joined with its latest correction where it has one."""
    later = corrections.alias()
    latest = (
        sa.select(sa.func.max(later.c.id))
        .where(later.c.inference_id == predictions.c.inference_id)
        .scalar_subquery()
    )
    return predictions.outerjoin(corrections, corrections.c.id == latest)


def logged() -> sa.Select[Any]:
    """Return the query of all predictions, each with its latest correction."""
    return sa.select(
        predictions,
        corrections.c.id.label("correction_id"),
        corrections.c.time.label("correction_time"),
        corrections.c.label.label("correction_label"),
        corrections.c.annotator,
    ).select_from(with_latest_correction())


def insert_missing(dialect: str, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    """Return the statement that inserts a row unless there is one of the same key."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return insert(table).on_conflict_do_nothing()


def insert_predictions(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> int:
    """Insert rows of `predictions` whose inference ids are new; return how many these are."""
    dialect = connection.dialect.name
    insert = insert_missing(dialect, predictions)
    if dialect == "sqlite":  # counts the rows of many inserts itself, at two thirds of the price
        return connection.execute(insert, rows).rowcount
    return len(connection.execute(insert.returning(predictions.c.inference_id), rows).all())


def open_engine(url: str, timeout: int = TIMEOUT) -> sa.Engine:
    """Return the engine of a prediction log's database; connects to nothing yet.

    Args:
        url: `sqlite:////absolute/path` or `postgresql://user:password@host/database`.
        timeout: seconds that a statement may take or wait.

    Raises:
        PredictionLogUrlError: it is none of the two.
    """
    wanted = "give sqlite:////absolute/path/of/a/file or postgresql://user:password@host/database"
    try:
        address = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise PredictionLogUrlError(f"the prediction log's address is no database URL: {wanted}") from None
    name = address.drivername.partition("+")[0]
    if name == "postgresql":
        options = {
            "connect_timeout": TIMEOUT,
            "tcp_user_timeout": TIMEOUT * 1000,
            "options": f"-c statement_timeout={timeout * 1000}",
        }
    elif name == "sqlite" and address.database not in {None, "", ":memory:"}:
        options = {"timeout": timeout}
    else:
        raise PredictionLogUrlError(f"a prediction log cannot be kept in {name}: {wanted}")
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg2")
    try:
        engine = sa.create_engine(
            address, connect_args=options, pool_pre_ping=name == "postgresql", json_serializer=_json
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise PredictionLogUrlError(
            f"{address.drivername} cannot be used: {error}; install psycopg2-binary"
        ) from error
    if name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _json(value: object) -> str:
    """Return JSON ten times as fast as the standard library writes numbers."""
    return to_json(value).decode()


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=NORMAL")  # a killed process loses nothing that was committed
    connection.execute("PRAGMA secure_delete=ON")  # what the retention removes is overwritten
    # a text that is damaged is rejected with its row, and stops no query
    connection.text_factory = lambda text: text.decode(errors="backslashreplace")


def sqlite_file(engine: sa.Engine) -> Path | None:
    """Return the file of an SQLite database, None for another."""
    return Path(str(engine.url.database)) if engine.dialect.name == "sqlite" else None


def create_schema(engine: sa.Engine) -> None:
    """Create the tables where they don't exist; several processes may do so at once."""
    file = sqlite_file(engine)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with engine.begin() as connection:
        if file is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
