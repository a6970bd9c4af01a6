"""A row of the log that cannot be read is rejected with its reason; the other rows of its day are a table."""

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from captcha_assets.served_predictions import daily_tables
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.serving.prediction_log_tables import UnreadableRowError
from captcha_assets_tests.serving.predictions import prediction

DAY = "2026-11-28"

CORRUPTED = {
    "probabilities": ("probabilities = 'no JSON'", "probabilities is not JSON: no JSON"),
    "list": ("probabilities = '[1, 2]'", "probabilities is not a JSON object of class to probability"),
    "words": ('probabilities = \'{"a": "high"}\'', "probabilities is not of type list"),
    "time": ("time = '2026-11-28 noon'", "time is not a date and time: 2026-11-28 noon"),
    "score": ("score = 'high'", "score is not of type double: high"),
    "image": ("image = 3", "image is not of type binary: 3"),
    "no UTF-8": ("label = CAST(x'ff' AS TEXT), status = 'bad'", "status is not of type int32: bad"),
    "batch size": ("batch_size = 9999999999", "batch_size is not of type int32: 9999999999"),
}


@pytest.mark.parametrize(("changed", "reason"), CORRUPTED.values(), ids=CORRUPTED)
def test_a_corrupt_row_is_rejected_with_its_reason(tmp_path: Path, changed: str, reason: str) -> None:
    file = tmp_path / "predictions.db"
    with open_prediction_log(f"sqlite:///{file}") as log:
        for number in range(4):
            log.record(prediction(number))
        log.correct("id-0", "a")
        assert log.flush()
    with sqlite3.connect(file) as connection:
        connection.execute(f"UPDATE predictions SET {changed} WHERE inference_id = 'id-2'")
    connection.close()
    table, rejected = tmp_path / "day.parquet", tmp_path / "rejected.parquet"
    written = daily_tables.write_day(f"sqlite:///{file}", DAY, table, rejected)
    assert pl.read_parquet(table)["inference_id"].to_list() == ["id-0", "id-1", "id-3"]
    assert (written.predictions, written.corrected) == (3, 1)
    ((name, why),) = pl.read_parquet(rejected).rows()
    assert name == "id-2"
    assert why.startswith(reason)
    assert written.rejected == {name: why}
    if "JSON" in reason:
        with pytest.raises(UnreadableRowError, match=r"of the inference id 'id-2' is damaged: probabilities"):
            daily_tables.find(f"sqlite:///{file}", "id-2")


def test_an_inference_id_that_no_caller_may_choose_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "predictions.db"
    with open_prediction_log(f"sqlite:///{file}") as log:
        for number in range(3):
            log.record(prediction(number))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE predictions SET inference_id = x'ff' WHERE inference_id = 'id-0'")
        connection.execute("UPDATE predictions SET inference_id = 'two words' WHERE inference_id = 'id-1'")
    connection.close()
    table, rejected = tmp_path / "day.parquet", tmp_path / "rejected.parquet"
    written = daily_tables.write_day(f"sqlite:///{file}", DAY, table, rejected)
    assert written.predictions == 1
    assert set(pl.read_parquet(rejected)["inference_id"]) == {r"b'\xff'", "two words"}
