import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.monitoring import sample
from captcha_assets.monitoring.drift_detection import MIN_PREDICTIONS, RECENT, THE_DAY, served_drift
from captcha_assets.monitoring.result import ServedDrift
from captcha_assets.monitoring.sample import RawWindow, read_window, reference_of
from captcha_assets.quality.drift import DriftError
from captcha_assets_tests.monitoring.served import DAY, MODEL_ID, Model, brighter, correct, images

pytestmark = pytest.mark.xdist_group("monitoring")


@pytest.fixture(scope="module")
def usual() -> np.ndarray:
    """Images as the model knows them."""
    return images(600, 77)


def compared(model: Model, **tables: Path) -> ServedDrift:
    days = {name.removeprefix("d").replace("_", "-"): path for name, path in tables.items()}
    return served_drift(DAY, days, model.reference, model.extractor, CAPTCHA)


def drifted(result: ServedDrift) -> set[str]:
    return {f"{test.family}: {test.name}" for test in result.tests if test.severity != "none"}


def test_the_model_of_these_tests_is_a_real_one(model: Model) -> None:
    assert model.reference.wrong / len(model.reference.labels) < 0.35


def test_an_undisturbed_day_raises_no_alarm(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    result = compared(model, d2026_11_28=model.day(tmp_path, usual))
    assert result.severity == "none"
    assert result.sentences == ()
    assert len(result.tests) == 4 + 20 + 20 + 3
    assert result.windows[0].predictions == 600


def test_brighter_images_are_named_with_their_size(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    result = compared(model, d2026_11_28=model.day(tmp_path, brighter(usual)))
    assert result.severity == "critical"
    assert "input statistics: brightness" in drifted(result)
    (sentence,) = [one for one in result.sentences if "input statistics" in one]
    assert sentence.startswith("the day, input statistics: ")
    assert "Kolmogorov-Smirnov distance" in sentence
    assert "standard deviations" in sentence


def test_the_inverse_moves_everything(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    result = compared(model, d2026_11_28=model.day(tmp_path, 255 - usual))
    assert result.severity == "critical"
    families = {name.partition(":")[0] for name in drifted(result)}
    assert families >= {"input statistics", "probabilities", "predicted classes", "features"}


def test_a_part_of_the_traffic_is_enough(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    mixed = np.concatenate([usual[:450], 255 - usual[450:]])
    assert compared(model, d2026_11_28=model.day(tmp_path, mixed)).severity != "none"


def test_a_class_that_becomes_frequent_is_named(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    table = pl.read_parquet(model.day(tmp_path, usual))
    of_class = table.filter(pl.col("label") == "w")
    pl.concat([table, *[of_class] * 5]).write_parquet(tmp_path / "more.parquet")
    result = compared(model, d2026_11_28=tmp_path / "more.parquet")
    assert "predicted classes: w" in drifted(result)
    assert "label shift: classes" in drifted(result)
    (share,) = [one for one in result.windows[0].shares if one.label == "w"]
    assert share.now > 3 * share.before
    assert share.labels_implied > 2 * share.labels_before


@pytest.mark.parametrize("count", [0, 3, MIN_PREDICTIONS - 1])
def test_few_predictions_alarm_nobody_and_say_so(
    model: Model, usual: np.ndarray, tmp_path: Path, count: int
) -> None:
    result = compared(model, d2026_11_28=model.day(tmp_path, 255 - usual[:count]))
    assert result.severity == "none"
    assert result.tests == ()
    (sentence,) = result.sentences
    assert sentence.endswith(f"too few to test for drift, {MIN_PREDICTIONS} are needed")
    assert str(count or "no predictions") in sentence


def test_a_day_without_a_table_is_a_day_without_predictions(model: Model, tmp_path: Path) -> None:
    result = served_drift(DAY, {}, model.reference, model.extractor, CAPTCHA)
    assert result.severity == "none"
    assert result.windows[0].predictions == 0
    assert result.unusual == ()


def test_the_last_days_are_compared_together(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    tables = {
        f"d{day.replace('-', '_')}": model.day(tmp_path, 255 - usual[start : start + 20], day)
        for start, day in ((0, "2026-11-26"), (20, "2026-11-27"), (40, DAY), (60, "2026-11-29"))
    }
    result = compared(model, **tables)
    assert [window.name for window in result.windows] == [THE_DAY, RECENT]
    assert [window.predictions for window in result.windows] == [20, 60]  # nothing of tomorrow
    assert result.windows[0].severity == "none"
    assert result.windows[1].severity == "critical"


def test_days_of_long_ago_are_not_compared(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    old = model.day(tmp_path, 255 - usual, "2026-11-21")
    result = compared(model, d2026_11_21=old, d2026_11_28=model.day(tmp_path, usual))
    assert [window.name for window in result.windows] == [THE_DAY]
    assert result.severity == "none"


def test_predictions_of_another_model_are_left_out(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    other = pl.read_parquet(model.day(tmp_path / "other", 255 - usual, model="another"))
    mine = pl.read_parquet(model.day(tmp_path / "mine", usual[:100]))
    pl.concat([other, mine]).write_parquet(tmp_path / "both.parquet")
    result = compared(model, d2026_11_28=tmp_path / "both.parquet")
    assert result.windows[0].predictions == 100
    assert result.severity == "none"


def test_without_images_the_rest_is_tested(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    table = model.day(tmp_path, 255 - usual)
    pl.read_parquet(table).with_columns(image=pl.lit(None, pl.Binary)).write_parquet(table)
    result = compared(model, d2026_11_28=table)
    assert result.severity == "critical"
    assert "features" not in {test.family for test in result.tests}
    assert any("the images are not in the prediction log" in one for one in result.sentences)


def test_corrections_prove_an_error_rate(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    table = model.day(tmp_path, usual)
    correct(table, range(500), wrong=True)
    correct(table, range(500, 540), wrong=False)
    result = compared(model, d2026_11_28=table)
    assert result.error_rate is not None
    assert (result.error_rate.errors.wrong, result.error_rate.errors.labelled) == (500, 540)
    assert result.error_rate.test.severity == "critical"
    assert result.severity == "critical"
    assert result.error_rate.reference < result.error_rate.at_least < 500 / 600
    assert "500 of 600 predictions are corrected as wrong" in result.sentences[0]


def test_corrections_as_many_as_expected_alarm_nobody(
    model: Model, usual: np.ndarray, tmp_path: Path
) -> None:
    table = model.day(tmp_path, usual)
    correct(table, range(int(600 * model.reference.wrong / len(model.reference.labels))), wrong=True)
    result = compared(model, d2026_11_28=table)
    assert result.error_rate is not None
    assert result.severity == "none"


def test_corrections_of_earlier_days_count(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    old = model.day(tmp_path, usual, "2026-10-01")
    correct(old, range(500), wrong=True)
    result = compared(model, d2026_10_01=old, d2026_11_28=model.day(tmp_path, usual[:5]))
    assert result.error_rate is not None
    assert result.error_rate.errors.predictions == 605
    assert result.severity == "critical"


def test_the_unusual_images_come_first(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    mixed = usual[:100].copy()
    mixed[7] = 255 - mixed[7]
    result = compared(model, d2026_11_28=model.day(tmp_path, mixed))
    assert f"{DAY}-7" in [one.inference_id for one in result.unusual[:5]]
    assert [one.distance for one in result.unusual] == sorted(
        (one.distance for one in result.unusual), reverse=True
    )


def test_the_same_tables_give_the_same_json(model: Model, usual: np.ndarray, tmp_path: Path) -> None:
    table = model.day(tmp_path, brighter(usual, 15))
    one, other = (json.dumps(compared(model, d2026_11_28=table).to_dict(), sort_keys=True) for _ in range(2))
    assert one == other
    assert json.loads(one)["severity"] in {"warning", "critical"}


def test_of_many_predictions_a_sample_is_read(
    model: Model, usual: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "MAX_PREDICTIONS", 200)
    monkeypatch.setattr(sample, "MAX_FEATURES", 100)
    table = model.day(tmp_path, 255 - usual)
    window = read_window([table], MODEL_ID)
    assert isinstance(window, RawWindow)
    assert (window.rows.height, window.predictions) == (200, 600)
    result = compared(model, d2026_11_28=table)
    assert result.windows[0].predictions == 600
    assert result.severity == "critical"


def test_a_damaged_table_is_named(model: Model, tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(
        DriftError, match=r"broken\.parquet cannot be read .*: materialize prediction_log again"
    ):
        compared(model, d2026_11_28=tmp_path / "broken.parquet")


def test_classes_that_the_model_does_not_have_are_named(
    model: Model, usual: np.ndarray, tmp_path: Path
) -> None:
    table = model.day(tmp_path, usual[:40])
    pl.read_parquet(table).with_columns(label=pl.lit("Q")).write_parquet(table)
    with pytest.raises(DriftError, match="name classes that the model does not have: Q"):
        compared(model, d2026_11_28=table)


# --- the reference


def test_a_reference_is_read_as_it_was_written(model: Model, tmp_path: Path) -> None:
    sample.save(model.reference, tmp_path / "reference.npz")
    found = sample.load(tmp_path / "reference.npz")
    assert (found.model_id, found.classes) == (MODEL_ID, CAPTCHA.classes)
    assert found.training_images == model.reference.training_images
    for name in ("quantiles", "labels", "probabilities", "features"):
        assert np.array_equal(getattr(found, name), getattr(model.reference, name))


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 no archive"])
def test_a_damaged_reference_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(DriftError, match=r"reference\.npz cannot be read .*: remove it"):
        sample.load(tmp_path / "reference.npz")


def test_too_few_validation_images_are_no_reference(model: Model) -> None:
    from dataclasses import replace

    few = replace(
        model.validation, pixels=model.validation.pixels[:9], image_ids=model.validation.image_ids[:9]
    )
    with pytest.raises(DriftError, match="9 validation images are too few to compare with"):
        reference_of(MODEL_ID, model.extractor, few, model.training)
