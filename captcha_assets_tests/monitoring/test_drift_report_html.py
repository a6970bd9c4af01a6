from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.monitoring.drift_detection import served_drift
from captcha_assets.monitoring.drift_report_html import render, unusual_pngs
from captcha_assets.monitoring.evidently_report import evidently_report
from captcha_assets.monitoring.plots import plot
from captcha_assets.monitoring.result import ServedDrift
from captcha_assets.monitoring.sample import Sample, read_window, sample_of
from captcha_assets.quality.drift import DriftError
from captcha_assets_tests.monitoring.served import DAY, MODEL_ID, Model, brighter, correct, images

pytestmark = pytest.mark.xdist_group("monitoring")


def result_of(model: Model, table: Path) -> ServedDrift:
    return served_drift(DAY, {DAY: table}, model.reference, model.extractor, CAPTCHA)


def plots_of(result: ServedDrift) -> dict[str, bytes]:
    return {window.name: plot(window) for window in result.windows if window.tests}


def sample(model: Model, table: Path) -> Sample:
    return sample_of(read_window([table], MODEL_ID).rows, model.extractor, CAPTCHA)


def test_the_page_says_what_drifted_and_shows_images(model: Model, tmp_path: Path) -> None:
    table = model.day(tmp_path, brighter(images(200, 5)))
    correct(table, range(20), wrong=True)
    result = result_of(model, table)
    pngs = unusual_pngs(result, table, CAPTCHA)
    assert set(pngs) == {one.inference_id for one in result.unusual}
    page = render(result, plots_of(result), pngs)
    assert "Drift: critical" in page
    assert page.count("data:image/png;base64,") == len(pngs) + 1  # and the plot
    assert "brightness: mean" in page
    assert "<dt>Corrected</dt>" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_page_of_no_predictions_says_so(model: Model, tmp_path: Path) -> None:
    page = render(result_of(model, model.day(tmp_path, images(1, 5)[:0])), {}, {})
    assert "No drift found" in page
    assert "No predictions: too few to test for drift" in page


def test_what_comes_from_outside_is_escaped(model: Model, tmp_path: Path) -> None:
    table = model.day(tmp_path, images(60, 5))
    result = result_of(model, table)
    hostile = replace(result.unusual[0], inference_id='"><script>alert(1)</script>')
    result = replace(result, unusual=(hostile,))
    page = render(result, plots_of(result), {hostile.inference_id: b"png"})
    assert "<script>" not in page


@pytest.mark.slow
def test_evidently_agrees_on_what_is_obvious(model: Model, tmp_path: Path) -> None:
    pixels = np.asarray(images(1500, 6))
    changed = {"undisturbed": pixels, "brighter": brighter(pixels), "inverse": 255 - pixels}
    theirs, ours = {}, {}
    for name, each in changed.items():
        table = model.day(tmp_path / name, each)
        ours[name] = result_of(model, table)
        page = tmp_path / f"{name}.html"
        theirs[name] = evidently_report(model.reference, sample(model, table), page)
        assert "<html" in page.read_text()[:2000].lower()
    assert not theirs["undisturbed"].dataset_drift
    assert ours["undisturbed"].severity == "none"
    assert "brightness" in theirs["brighter"].drifted
    assert "brightness" in {test.name for test in ours["brighter"].tests if test.severity != "none"}
    assert theirs["inverse"].dataset_drift
    assert ours["inverse"].severity == "critical"
    assert theirs["inverse"].columns == 25


@pytest.mark.slow
def test_evidently_is_given_no_empty_day(model: Model, tmp_path: Path) -> None:
    table = model.day(tmp_path, images(1, 5)[:0])
    with pytest.raises(DriftError, match="there are no predictions to compare"):
        evidently_report(model.reference, sample(model, table), tmp_path / "page.html")
