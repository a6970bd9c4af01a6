"""The prediction log: nothing is lost silently, nothing stands in the way of an answer."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from captcha_assets.images.features import Statistics
from captcha_assets.serving import prediction_log
from captcha_assets.serving.prediction_log import (
    LoggedPrediction,
    Prediction,
    PredictionLog,
    PredictionLogUnavailableError,
    PredictionLogUrlError,
    UnknownClassError,
    UnknownPredictionError,
    open_prediction_log,
)
from captcha_assets.serving.prediction_log_tables import STATISTICS, open_engine
from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.serving.log_processes import everything, record_many, start
from captcha_assets_tests.serving.predictions import prediction


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Hold the lock of an SQLite database, as a process that never ends its transaction."""
    connection = sqlite3.connect(file_of(url), isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    yield
    connection.execute("ROLLBACK")
    connection.close()


def as_recorded(logged: LoggedPrediction) -> Prediction:
    return Prediction(**{name: value for name, value in vars(logged).items() if name != "correction"})


def records(log: PredictionLog, *numbers: int) -> list[bool]:
    return [log.record(prediction(number)) for number in numbers]


def ids(found: list[LoggedPrediction]) -> list[str]:
    return [one.inference_id for one in found]


# --- predictions


def test_a_prediction_is_read_as_it_was_recorded(url: str) -> None:
    with open_prediction_log(url) as log:
        records(log, 1, 2)
    with open_prediction_log(url) as log:
        assert as_recorded(log.prediction("id-1")) == prediction(1)
        assert [as_recorded(one) for one in log.recent(10)] == [prediction(2), prediction(1)]
    assert (log.written, log.dropped, log.repeated, log.error) == (0, 0, 0, None)


def test_the_statistics_are_those_of_each_image_whatever_its_size(sqlite_url: str) -> None:
    chance = np.random.default_rng(0)
    images = [chance.integers(0, 256, shape, np.uint8) for shape in ((9, 8), (9, 8, 3), (9, 8), (5, 4))]
    with open_prediction_log(sqlite_url) as log:
        for number, image in enumerate(images):
            log.record(prediction(number, statistics={}, pixels=image))
        log.record(prediction(9))
        assert log.flush()
        for number, image in enumerate(images):
            one = Statistics(image[None])
            assert log.prediction(f"id-{number}").statistics == {
                name: getattr(one, name)[0] for name in STATISTICS
            }
        assert log.prediction("id-9").statistics == prediction(9).statistics


def test_the_latest_and_the_least_certain_predictions(url: str) -> None:
    with open_prediction_log(url) as log:
        records(log, *range(20))
        log.correct("id-7", "a")
        assert ids(log.recent(3)) == ["id-19", "id-18", "id-17"]
        uncertain = sorted((number for number in range(20) if number != 7), key=lambda n: prediction(n).score)
        assert ids(log.recent(5, "least certain")) == [f"id-{number}" for number in uncertain[:5]]
        (seventh,) = [one for one in log.recent(20) if one.inference_id == "id-7"]
        assert seventh.correction is not None


def test_a_prediction_keeps_the_inference_id_that_came_first(url: str) -> None:
    with open_prediction_log(url) as log:
        log.record(prediction(1))
        log.record(prediction(2, inference_id="id-1"))
        log.flush()
        log.record(prediction(3, inference_id="id-1"))
        log.flush()
        assert (log.written, log.dropped, log.repeated) == (1, 0, 2)
        assert as_recorded(log.prediction("id-1")) == prediction(1)


def test_no_request_waits_for_a_locked_database(sqlite_url: str) -> None:
    with open_prediction_log(sqlite_url, buffer=10) as log:
        records(log, 0)
        assert log.flush()
        with locked(sqlite_url):  # nothing below can have been written
            assert records(log, *range(1, 16)) == [True] * 10 + [False] * 5
            assert as_recorded(log.prediction("id-10")) == prediction(10)
            with pytest.raises(UnknownPredictionError):
                log.prediction("id-11")
            assert (log.written, log.dropped, log.waiting) == (1, 5, 10)
        assert log.flush(60)
        assert (log.written, log.dropped, log.waiting) == (11, 5, 0)
        assert len(log.recent(100)) == 11


def test_few_large_images_fill_the_buffer_too(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BUFFERED_BYTES", 1000)
    with open_prediction_log(sqlite_url) as log:
        records(log, 0)
        assert log.flush()
        with locked(sqlite_url):
            assert records(log, 1, 2, 3, 4) == [True, True, True, False]
        assert log.flush(60)
        assert records(log, 4) == [True]


def test_a_database_that_comes_later_gets_what_waited(tmp_path: Path) -> None:
    (tmp_path / "serving").write_text("a file where the folder belongs")
    with open_prediction_log(f"sqlite:///{tmp_path}/serving/predictions.db", buffer=2) as log:
        assert records(log, 1, 2, 3) == [True, True, False]
        assert not log.flush(2)
        assert log.error is not None
        with pytest.raises(PredictionLogUnavailableError, match="the prediction log cannot be used"):
            log.recent(1)
        with pytest.raises(PredictionLogUnavailableError, match="cannot be written now"):
            log.correct("id-1", "a")
        (tmp_path / "serving").unlink()
        assert log.flush(60)
        assert log.correct("id-1", "a").label == "a"
        assert (log.written, log.dropped, log.waiting) == (2, 1, 0)
    assert log.error is None


def test_a_log_that_is_closed_without_a_database_counts_and_names_what_it_loses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "serving").write_text("a file where the folder belongs")
    with open_prediction_log(f"sqlite:///{tmp_path}/serving/predictions.db") as log:
        records(log, 1, 2)
    assert (log.written, log.dropped, log.waiting) == (0, 2, 0)
    assert "2 predictions are not in the prediction log: they were dropped" in caplog.text
    assert not log.record(prediction(3))
    assert log.dropped == 3


def test_a_removed_database_is_made_again(sqlite_url: str) -> None:
    with open_prediction_log(sqlite_url) as log:
        records(log, 1)
        log.flush()
        shutil.rmtree(file_of(sqlite_url).parent)
        records(log, 2)
        assert log.flush(60)
        assert ids(log.recent(5)) == ["id-2"]


def test_a_full_disk_is_shown_and_what_fits_later_is_written(small_disk: Path) -> None:
    with open_prediction_log(f"sqlite:///{small_disk}/predictions.db") as log:
        assert log.flush()
        filler = small_disk / "filler"
        records(log, 1)
        assert log.flush()
        filler.write_bytes(b"x" * 50_000)
        for number in range(2, 200):
            assert log.record(prediction(number, image=bytes(1500)))
        assert not log.flush(3)
        assert "full" in str(log.error)
        assert log.dropped == 0
        written = log.written
        assert 1 <= written < 199
        assert log.waiting == 199 - written
        assert ids(log.recent(1000))[-1] == "id-1"


def test_a_row_that_cannot_be_written_takes_no_other_with_it(sqlite_url: str) -> None:
    with open_prediction_log(sqlite_url) as log:
        records(log, 1)
        log.record(prediction(2, score=float("nan")))
        records(log, 3)
        assert log.flush()
        assert (log.written, log.dropped) == (2, 1)
        assert ids(log.recent(5)) == ["id-3", "id-1"]


def test_a_share_of_the_predictions_is_sampled_by_their_ids(sqlite_url: str) -> None:
    with open_prediction_log(sqlite_url, sampling=0.25) as log:
        assert all(records(log, *range(2000)))
        assert log.flush()
        sampled = set(ids(log.recent(2000)))
        assert 400 < len(sampled) < 600
    with open_prediction_log(f"{sqlite_url}-2", sampling=0.25) as log:
        records(log, *reversed(range(2000)))
        assert log.flush()
        assert set(ids(log.recent(2000))) == sampled
    with open_prediction_log(f"{sqlite_url}-3", sampling=0) as log:
        assert records(log, 1)
        assert log.recent(1) == []


def test_retention_removes_what_is_old_and_was_not_corrected(url: str) -> None:
    now = datetime.now(UTC)
    with open_prediction_log(url) as log:
        for number in range(1200):
            log.record(prediction(number, time=now - timedelta(days=31, seconds=number)))
        log.record(prediction(5000, time=now - timedelta(days=29)))
        log.correct("id-7", "a")
    with open_prediction_log(url, retention_days=30) as log:
        records(log, 9000)
        log.flush()
    with open_prediction_log(url) as log:
        assert set(ids(log.recent(2000))) >= {"id-7", "id-5000"}
        assert set(ids(log.recent(2000))) <= {"id-7", "id-5000", "id-9000"}


@pytest.mark.slow
def test_four_processes_write_at_once(url: str) -> None:
    started = [start(record_many, url, first, 300) for first in (0, 1000, 2000, 3000)]
    reports = [everything(reader) for _, reader in started]
    assert reports == [[(300, 0, None)]] * 4
    with open_prediction_log(url) as log:
        found = log.recent(5000)
        assert len(found) == 1200
        assert log.pending_corrections() == 120
        assert {one.inference_id for one in found if one.correction} == {
            f"id-{first + number}" for first in (0, 1000, 2000, 3000) for number in range(0, 300, 10)
        }


@pytest.mark.xdist_group("postgres")
def test_a_connection_that_postgresql_ends_is_opened_again(postgres: Callable[[], str]) -> None:
    address = postgres()
    with open_prediction_log(address) as log:
        records(log, 1)
        assert log.flush()
        engine = sa.create_engine(sa.make_url(address).set(drivername="postgresql+psycopg2"))
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        with engine.connect() as connection:
            connection.execute(sa.text(f"{others} and pid <> pg_backend_pid()"))
            connection.rollback()
            connection.execute(sa.text("drop table correction_batches, corrections, predictions"))
            connection.commit()
        engine.dispose()
        records(log, 2)
        assert log.flush(60)
        assert ids(log.recent(5)) == ["id-2"]


# --- corrections


def test_a_later_correction_supersedes_and_removes_nothing(url: str) -> None:
    with open_prediction_log(url) as log:
        records(log, 1)
        first = log.correct("id-1", "a", "ann")
        second = log.correct("id-1", "b")
        assert log.prediction("id-1").correction == second
        assert log.corrections("id-1") == [first, second]
        assert (first.label, first.annotator, second.label, second.annotator) == ("a", "ann", "b", None)
        assert log.pending_corrections() == 1


def test_only_what_was_predicted_is_corrected_and_with_a_class_of_its_model(url: str) -> None:
    with open_prediction_log(url) as log:
        log.record(prediction(1, classes=("cat", "dog"), probabilities=(0.25, 0.75), label="dog"))
        with pytest.raises(UnknownPredictionError, match="'id-2'"):
            log.correct("id-2", "cat")
        with pytest.raises(UnknownClassError, match="'a' is not one of the classes cat, dog"):
            log.correct("id-1", "a")
        with pytest.raises(ValueError, match="printable"):
            log.correct("id-1", "cat", "two\nlines")
        assert log.corrections("id-1") == []
        assert log.correct("id-1", "cat").label == "cat"


# --- what is rejected


@pytest.mark.parametrize("inference_id", ["", "a b", "é", "x" * 201, "a\n", "a\0"])
def test_an_inference_id_is_short_and_printable(inference_id: str) -> None:
    with pytest.raises(ValueError, match="an inference id has"):
        prediction(1, inference_id=inference_id)


@pytest.mark.parametrize(
    "changes",
    [{"time": datetime(2026, 1, 1)}, {"probabilities": (1.0,)}, {"statistics": {"ink": 1.0}}],
)
def test_a_prediction_is_complete(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"time zone|probabilities|statistics"):
        prediction(1, **changes)


@pytest.mark.parametrize(
    "address", ["", "predictions.db", "sqlite://", "sqlite:///:memory:", "mysql://host/log", "nonsense://x"]
)
def test_an_address_of_another_kind_is_rejected(address: str) -> None:
    with pytest.raises(PredictionLogUrlError, match=r"give sqlite:////absolute/path"):
        open_prediction_log(address)


# --- the documentation


def test_the_questions_of_the_documentation_can_be_asked(url: str) -> None:
    page = (REPOSITORY / "docs" / "prediction-log.md").read_text()
    questions = [part.partition("```")[0] for part in page.split("```sql\n")[1:]]
    with open_prediction_log(url) as log:
        records(log, *range(5))
        log.correct("id-1", prediction(1).label)
        log.correct("id-2", "a")
        log.correct("id-2", "b" if prediction(2).label != "b" else "c")
    engine = open_engine(url)
    with engine.connect() as connection:
        answers = [connection.execute(sa.text(question)).all() for question in questions]
    engine.dispose()
    models, classes, waiting, days = answers
    assert [row[:2] for row in models] == [("20261128-1", 5)]
    assert sorted((row[1], float(row[2])) for row in classes) == [(1, 0), (1, 1)]
    assert waiting == [(2,)]
    assert [(str(row[0]), row[1]) for row in days] == [("2026-11-28", 5)]
