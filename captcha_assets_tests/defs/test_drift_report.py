"""The drift report of a day of the service, from the prediction log to a check in the UI."""

import json
from datetime import UTC, datetime, timedelta

import cv2
import dagster as dg
import numpy as np
import pytest
import xxhash

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import Statistics
from captcha_assets.models import registry
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.sources.synthetic_batches import generate
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.serving.predictions import prediction

DAYS = "key:prediction_log or key:drift_report"


def serve(home: Home, images: np.ndarray, day: str) -> None:
    """Log what the champion says of images, as the service does."""
    champion = registry.champion(home.settings.paths.models)
    assert champion is not None
    probabilities = OnnxPredictor(home.settings.paths.onnx_model(champion.model_id)).predict(images)
    found, start = Statistics(images), datetime.fromisoformat(day).replace(tzinfo=UTC)
    with open_prediction_log(f"sqlite:///{home.settings.paths.home}/.serving/predictions.db") as log:
        for number, row in enumerate(probabilities.astype(float)):
            data = cv2.imencode(".png", images[number])[1].tobytes()
            logged = prediction(
                number,
                inference_id=f"{day}-{number}",
                time=start + timedelta(seconds=number),
                model_version=champion.model_id,
                image=data,
                image_hash=xxhash.xxh3_128_hexdigest(data),
                label=CAPTCHA.classes[int(row.argmax())],
                score=float(row.max()),
                probabilities=tuple(row),
                statistics={name: float(getattr(found, name)[number]) for name in
                            ("brightness", "contrast", "foreground_fraction")},
            )  # fmt: skip
            assert log.record(logged)
        assert log.flush()


def images(count: int) -> np.ndarray:
    return np.stack([image for _, image in generate(count, seed=99)])


def check_of(home: Home, day: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(dg.AssetKey("drift_report"), "served_drift")
    records = home.instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    found = [record.event.dagster_event.event_specific_data for record in records if record.event]
    return next(one for one in found if one.partition == day)


def test_a_home_without_a_service_has_no_drift_reports(home: Home) -> None:
    assert home.update(DAYS) == []
    assert not home.settings.paths.drift_report("2026-11-28").exists()


def test_a_model_with_few_validation_images_is_not_compared_with_and_status_says_what_was_checked(
    finished: Home,
) -> None:
    serve(finished, 255 - images(40), "2026-11-28")
    unchecked = "served predictions: not checked yet (drift_report [2026-11-28] is stale); "
    assert unchecked in succeeded(finished.settings.paths.home, "status")
    outcomes = finished.update(DAYS)
    assert [str(one.step) for one in outcomes] == ["prediction_log [2026-11-28]", "drift_report [2026-11-28]"]
    assert [one.error for one in outcomes] == [None, None]
    check = check_of(finished, "2026-11-28")
    assert check.passed
    assert "served predictions: no drift on 2026-11-28; " in succeeded(finished.settings.paths.home, "status")
    assert "validation images are too few to compare with" in str(check.description)
    assert (finished.settings.paths.drift_report("2026-11-28") / "report.html").exists()
    assert finished.update(DAYS) == []
    (finished.settings.paths.drift_report("2026-11-28") / "drift.json").unlink()
    assert [str(one.step) for one in finished.update(DAYS)] == ["drift_report [2026-11-28]"]


@pytest.mark.slow
def test_days_of_the_champion_are_compared_with_what_it_was_trained_on(home: Home) -> None:
    home.add("first", "synthetic:2100:1")
    assert not [outcome for outcome in home.update() if outcome.error]
    usual, paths = images(150), home.settings.paths
    serve(home, usual, "2026-11-26")
    serve(home, np.clip(usual.astype(int) + 40, 0, 255).astype(np.uint8), "2026-11-27")
    serve(home, usual[:3], "2026-11-28")
    assert [one.error for one in home.update(DAYS)] == [None] * 6

    assert check_of(home, "2026-11-26").passed
    bright = check_of(home, "2026-11-27")
    assert not bright.passed
    assert bright.severity is dg.AssetCheckSeverity.ERROR
    assert "brightness" in str(bright.description)
    assert {"tests", "report", "the day", "most unusual images"} <= set(bright.metadata)
    stored = json.loads((paths.drift_report("2026-11-28") / "drift.json").read_text())
    assert [window["predictions"] for window in stored["windows"]] == [3, 303]
    assert stored["windows"][0]["tests"] == []
    champion = registry.champion(paths.models)
    assert champion is not None
    assert paths.drift_reference(champion.model_id).exists()
    assert home.update(DAYS) == []
