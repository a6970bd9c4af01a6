"""The version of a day of the prediction log says whether any of its rows changed, on both databases."""

import re

import pytest
import sqlalchemy as sa

from captcha_assets.served_predictions import daily_tables
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.serving.prediction_log_tables import corrections, open_engine, predictions
from captcha_assets_tests.serving.conftest import postgres, sqlite_url, url
from captcha_assets_tests.serving.predictions import DAY, prediction

__all__ = ["postgres", "sqlite_url", "url"]

FIRST, SECOND = "2026-11-28", "2026-11-29"


def execute(url: str, statement: sa.Executable) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()


@pytest.fixture
def log(url: str) -> str:
    """A log of two days; the second prediction of the first is corrected."""
    with open_prediction_log(url) as opened:
        for number in range(5):
            opened.record(prediction(number))
        for number in range(5, 8):
            opened.record(prediction(number, time=DAY.replace(day=29)))
        opened.correct("id-1", "a", "ann")
        assert opened.flush()
    return url


@pytest.mark.parametrize("column", [one.name for one in predictions.c if not one.primary_key])
def test_a_change_of_any_column_is_another_version_of_its_day_alone(log: str, column: str) -> None:
    before = daily_tables.day_versions(log)
    assert list(before) == [FIRST, SECOND]
    values = vars(prediction(100, time=DAY.replace(hour=12), status=400, batch_size=40, image=b"shorter"))
    changed = {
        "model_name": "x",
        "model_version": "x",
        "model_digest": "x",
        "label": "x",
        "probabilities": {"a": 1.0},
        "brightness": 1.0,
        "contrast": 2.0,
        "foreground_fraction": None,
    }
    value = changed[column] if column in changed else values[column]
    execute(log, sa.update(predictions).where(predictions.c.inference_id == "id-2").values({column: value}))
    after = daily_tables.day_versions(log)
    assert after[FIRST] != before[FIRST]
    assert after[SECOND] == before[SECOND]


def test_two_rows_that_exchange_their_values_are_another_version(log: str) -> None:
    before = daily_tables.day_versions(log)
    for name, number in (("id-2", 3), ("id-3", 2)):
        changed = sa.update(predictions).where(predictions.c.inference_id == name)
        execute(log, changed.values(score=prediction(number).score))
    assert daily_tables.day_versions(log)[FIRST] != before[FIRST]


@pytest.mark.parametrize("values", [{"label": "b"}, {"annotator": None}])
def test_a_correction_that_is_changed_is_another_version(log: str, values: dict[str, str | None]) -> None:
    before = daily_tables.day_versions(log)
    execute(log, sa.update(corrections).values(values))
    after = daily_tables.day_versions(log)
    assert after[FIRST] != before[FIRST]
    assert after[SECOND] == before[SECOND]


def test_the_same_rows_in_another_order_have_the_same_version(log: str) -> None:
    before = daily_tables.day_versions(log)
    assert all(re.fullmatch(r"\d+-\d+-[0-9a-f]{16}", version) for version in before.values())
    kept = prediction(5, time=DAY.replace(day=29))
    execute(log, sa.delete(predictions).where(predictions.c.inference_id == "id-5"))
    assert daily_tables.day_versions(log)[SECOND] != before[SECOND]
    with open_prediction_log(log) as opened:
        opened.record(kept)
        assert opened.flush()
    assert daily_tables.day_versions(log) == before
