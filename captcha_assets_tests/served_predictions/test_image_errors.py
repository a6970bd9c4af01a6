"""What the log says of a model in a period, counted in distinct images, in each kind of database."""

from datetime import timedelta

import numpy as np

from captcha_assets.dataset import CAPTCHA
from captcha_assets.served_predictions.image_errors import (
    ImageErrors,
    ServedPeriod,
    image_errors,
    image_statistics,
)
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets_tests.serving.predictions import DAY, prediction

PERIOD = ServedPeriod("one", DAY, DAY + timedelta(hours=1))


def another(label: str) -> str:
    return CAPTCHA.classes[CAPTCHA.classes.index(label) - 1]


def test_a_log_that_was_never_written_holds_no_images(sqlite_url: str) -> None:
    assert image_errors(sqlite_url, PERIOD) == ImageErrors(0, 0, 0)


def test_images_of_the_model_and_the_period_count_once_with_their_latest_corrections(url: str) -> None:
    made = [prediction(number, model_version="one") for number in range(10)]
    same = prediction(10, model_version="one", image_hash=made[0].image_hash)
    others = [
        prediction(11, model_version="two"),
        prediction(12, model_version="one", time=PERIOD.end),
        prediction(13, model_version="one", time=PERIOD.begin - timedelta(microseconds=1)),
    ]
    with open_prediction_log(url) as log:
        for one in [*made, same, *others]:
            assert log.record(one)
        assert log.flush()
        for one in [made[0], made[1], same, *others]:
            log.correct(one.inference_id, another(one.label))
        log.correct(made[1].inference_id, made[1].label)  # it was right after all
        log.correct(made[2].inference_id, made[2].label)
    assert image_errors(url, PERIOD) == ImageErrors(images=10, answered=3, wrong=1)
    assert image_errors(url, ServedPeriod("two", PERIOD.begin, PERIOD.end)) == ImageErrors(1, 1, 1)
    found = image_statistics(url, PERIOD)
    assert found.shape == (11, 3)
    wanted = sorted(one.statistics["brightness"] for one in [*made, same])
    np.testing.assert_allclose(np.sort(found[:, 0]), wanted)
