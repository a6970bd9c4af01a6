import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models.manifest import verify_files
from captcha_assets.monitoring import drift_report
from captcha_assets.monitoring.drift_report import ModelFiles
from captcha_assets.quality import drift
from captcha_assets_tests.monitoring.served import DAY, MODEL_ID, Model, brighter, images

pytestmark = pytest.mark.xdist_group("monitoring")

Change = Callable[[ModelFiles, Path], ModelFiles]


@pytest.fixture
def files(model: Model, tmp_path: Path) -> ModelFiles:
    summary = tmp_path / "summary.npz"
    drift.save(model.training, summary)
    return ModelFiles(MODEL_ID, model.folder, model.splits, summary, tmp_path / "reference.npz")


def write(model: Model, files: ModelFiles, tmp_path: Path, pixels: np.ndarray) -> drift_report.DailyDrift:
    return drift_report.write_report(
        DAY,
        {DAY: model.day(tmp_path / "days", pixels)},
        files,
        tmp_path / "report",
        image_table=lambda _: model.table,
        spec=CAPTCHA,
    )


def test_a_report_holds_the_result_its_plots_and_a_page(
    model: Model, files: ModelFiles, tmp_path: Path
) -> None:
    written = write(model, files, tmp_path, brighter(images(200, 9)))
    folder = tmp_path / "report"
    verify_files(folder)
    assert {path.name for path in folder.iterdir()} == {
        "drift.json", "report.html", "the_day.png", "manifest.json",
    }  # fmt: skip
    stored = json.loads((folder / "drift.json").read_text())
    assert stored["severity"] == written.result.severity == "critical"
    assert stored["sentences"] == list(written.result.sentences)
    assert len(written.images) == len(written.result.unusual)


def test_the_reference_is_computed_once(model: Model, files: ModelFiles, tmp_path: Path) -> None:
    write(model, files, tmp_path, images(50, 9))
    first = files.reference.stat().st_mtime_ns
    files.summary.unlink()
    write(model, files, tmp_path, images(50, 9))
    assert files.reference.stat().st_mtime_ns == first
    assert np.array_equal(
        drift_report.sample.load(files.reference).probabilities, model.reference.probabilities
    )


def unlink_summary(files: ModelFiles, tmp_path: Path) -> ModelFiles:
    files.summary.unlink()
    return files


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (unlink_summary, f"it is not recorded what {MODEL_ID} was trained on"),
        (
            lambda files, folder: replace(files, exported=folder / "none"),
            f"{MODEL_ID} has no export any more",
        ),
    ],
)
def test_a_model_that_cannot_be_compared_with_alarms_nobody(
    model: Model, files: ModelFiles, tmp_path: Path, changed: Change, words: str
) -> None:
    result = write(model, changed(files, tmp_path), tmp_path, 255 - images(50, 9)).result
    assert (result.severity, result.windows[0].predictions) == ("none", 50)
    (sentence,) = result.sentences
    assert words in sentence
    assert words in (tmp_path / "report" / "report.html").read_text()


def test_validation_images_that_are_gone_are_named(model: Model, files: ModelFiles, tmp_path: Path) -> None:
    tables = {DAY: model.day(tmp_path, images(50, 9))}
    written = drift_report.write_report(
        DAY, tables, files, tmp_path / "report", image_table=lambda _: tmp_path / "none", spec=CAPTCHA
    )
    assert f"the validation images of {MODEL_ID} cannot be read" in written.result.sentences[0]


def test_the_model_of_a_day_is_the_last_that_answered(model: Model, tmp_path: Path) -> None:
    assert drift_report.model_of(model.day(tmp_path, images(3, 9))) == MODEL_ID
    assert drift_report.model_of(model.day(tmp_path, images(3, 9)[:0])) is None
