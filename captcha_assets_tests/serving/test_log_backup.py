"""A backup holds the prediction log, whatever database it is in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from captcha_assets import backup
from captcha_assets.paths import Paths
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets_tests.serving.predictions import prediction


@pytest.mark.slow
@pytest.mark.xdist_group("postgres")
def test_a_log_in_postgresql_is_restored_into_another_database(
    postgres: Callable[[], str], tmp_path: Path
) -> None:
    before, after = postgres(), postgres()
    with open_prediction_log(before) as log:
        for number in range(2500):
            log.record(prediction(number))
        log.correct("id-7", "w", "somebody")
        assert log.flush()
        kept = log.recent(3000)
    here, there = Paths(home=tmp_path / "here"), Paths(home=tmp_path / "there")
    here.home.mkdir()
    backup.create(here, here.dagster_home, before, tmp_path / "backup.zip")
    backup.restore(there, there.dagster_home, after, tmp_path / "backup.zip")
    with open_prediction_log(after) as log:
        assert log.recent(3000) == kept
        assert [(one.label, one.annotator) for one in log.corrections("id-7")] == [("w", "somebody")]
        log.correct("id-8", "x")  # numbers of corrections go on after those that were restored
        assert log.pending_corrections() == 2
