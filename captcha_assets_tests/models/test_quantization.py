"""An export as int8: the same answers within the gate, and refused where it loses more."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.evaluation.quantization_loss import calibration_images
from captcha_assets.images.reader import SplitImages
from captcha_assets.models.manifest import ModelFolderError
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.models.quantization import (
    Quantization,
    QuantizationError,
    RefusedQuantizationError,
    quantize,
    read_quantization,
    require_passed,
)
from captcha_assets_tests.models.trained import clear, drawn, trained

Quantized = tuple[Path, Quantization]

TEST = drawn(1000, seed=5)
NO_LOSS = {
    "images": 1000, "accuracy_fp32": 0.9, "accuracy_int8": 0.9, "agreement": 1.0, "calibration_images": 100,
    "images_per_second_fp32": 1.0, "images_per_second_int8": 2.0, "bytes_fp32": 4, "bytes_int8": 1,
    "made_from": "a", "version": "b",
}  # fmt: skip


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 export of a model that was trained for a few seconds."""
    return trained(tmp_path_factory) / "onnx"


@pytest.fixture(scope="module")
def quantized(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    place = tmp_path_factory.mktemp("quantized") / "int8"
    return place, quantize(exported, place, drawn(200, seed=7)[0], *TEST)


# --- a model that reads


@pytest.mark.slow
def test_the_int8_export_says_what_the_fp32_export_says(exported: Path, quantized: Quantized) -> None:
    fp32, int8 = (OnnxPredictor(place).predict(TEST[0]) for place in (exported, quantized[0]))
    assert (fp32.argmax(1) == TEST[1]).mean() > 0.8, "a model that reads nothing loses nothing"
    assert (fp32.argmax(1) == int8.argmax(1)).mean() > 0.95
    assert np.abs(fp32 - int8).mean() < 0.01
    np.testing.assert_allclose(int8.sum(1), 1, atol=1e-5)
    assert len(np.unique(int8)) > 1000, "probabilities are not rounded to 256 values"


@pytest.mark.slow
def test_what_is_recorded_is_what_both_exports_answer(exported: Path, quantized: Quantized) -> None:
    place, measured = quantized
    fp32, int8 = (OnnxPredictor(one).predict(TEST[0]).argmax(1) for one in (exported, place))
    assert read_quantization(place) == measured
    assert measured.images == len(TEST[0])
    assert measured.accuracy_fp32 == pytest.approx((fp32 == TEST[1]).mean())
    assert measured.accuracy_int8 == pytest.approx((int8 == TEST[1]).mean())
    assert measured.agreement == pytest.approx((fp32 == int8).mean())
    assert measured.lost == (fp32 == TEST[1]).sum() - (int8 == TEST[1]).sum()
    assert measured.calibration_images == 200
    assert measured.bytes_int8 == (place / "model.onnx").stat().st_size < measured.bytes_fp32 / 2
    assert min(measured.images_per_second_fp32, measured.images_per_second_int8) > 0


@pytest.mark.slow
def test_clients_see_the_same_input_and_output(exported: Path, quantized: Quantized) -> None:
    fp32, int8 = (onnx_library.load(place / "model.onnx").graph for place in (exported, quantized[0]))
    assert list(int8.input) == list(fp32.input)
    assert list(int8.output) == list(fp32.output)
    left = {node.op_type for node in int8.node}
    assert {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "Softmax"} <= left


@pytest.mark.slow
def test_the_same_export_and_images_give_the_same_file(
    exported: Path, quantized: Quantized, tmp_path: Path
) -> None:
    again = quantize(exported, tmp_path / "again", drawn(200, seed=7)[0], *TEST)
    assert again.version == quantized[1].version
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (quantized[0] / "model.onnx").read_bytes()


@pytest.mark.slow
def test_calibration_with_useless_images_is_measured_and_refused(exported: Path, tmp_path: Path) -> None:
    black = np.zeros((50, *CAPTCHA.shape), np.uint8)
    measured = quantize(exported, tmp_path / "int8", black, *TEST)
    assert measured.loss > 0.002
    assert not measured.passed
    with pytest.raises(RefusedQuantizationError, match=r"refused: int8 loses \d+\.\d\d percentage points"):
        require_passed(tmp_path / "int8")


@pytest.mark.slow
def test_an_export_that_loses_nothing_passes(exported: Path, tmp_path: Path) -> None:
    measured = quantize(exported, tmp_path / "int8", drawn(200, seed=7)[0], *clear(exported))
    assert measured.images > 200
    assert require_passed(tmp_path / "int8") == measured


# --- the gate


@pytest.mark.parametrize(
    ("images", "lost", "passed"),
    [(1000, 2, True), (1000, 3, False), (499, 1, False), (500, 1, True), (20, -1, True), (7, 0, True)],
)
def test_two_images_of_a_thousand_may_be_lost_and_no_more(images: int, lost: int, passed: bool) -> None:
    right = images - 5
    accuracies = {"accuracy_fp32": right / images, "accuracy_int8": (right - lost) / images}
    measured = Quantization(**NO_LOSS | accuracies | {"images": images})
    assert (measured.lost, measured.passed) == (lost, passed)


def test_a_record_that_is_missing_or_damaged_is_not_passed(tmp_path: Path) -> None:
    record = tmp_path / "quantization.json"
    with pytest.raises(ModelFolderError, match="is missing"):
        require_passed(tmp_path)
    for damaged in ("", "[]", "{}", json.dumps(NO_LOSS | {"images": 0}), json.dumps(NO_LOSS | {"more": 1})):
        record.write_text(damaged)
        with pytest.raises(ModelFolderError, match=r"quantization\.json is damaged"):
            require_passed(tmp_path)
    record.write_text(json.dumps(NO_LOSS))
    assert require_passed(tmp_path).passed


# --- what cannot be quantized


def test_without_images_nothing_is_quantized(tmp_path: Path) -> None:
    none = np.zeros((0, *CAPTCHA.shape), np.uint8)
    with pytest.raises(QuantizationError, match="calibrated on no images"):
        quantize(tmp_path, tmp_path / "int8", none, *TEST)
    with pytest.raises(QuantizationError, match="measured on no images"):
        quantize(tmp_path, tmp_path / "int8", TEST[0], none, np.zeros(0, np.int64))
    assert not (tmp_path / "int8").exists()


@pytest.mark.slow
def test_a_damaged_export_is_not_quantized(exported: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(exported, tmp_path / "export"))
    (damaged / "model.onnx").write_bytes((damaged / "model.onnx").read_bytes()[:-1])
    with pytest.raises(ModelFolderError, match=r"model\.onnx is damaged"):
        quantize(damaged, tmp_path / "int8", TEST[0], *TEST)
    assert not (tmp_path / "int8").exists()


# --- calibration


def split_images(labels: list[int]) -> SplitImages:
    """Images whose every pixel is their position."""
    count = len(labels)
    pixels = np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    ids = np.array([f"{number:032x}" for number in range(count)])
    return SplitImages(ids, pixels, np.array(labels), np.full(count, "first", object), ("a", "b", "c"))


def test_calibration_takes_as_many_images_of_each_class() -> None:
    labels = [0] * 100 + [1] * 20 + [2] * 3
    chosen = calibration_images(split_images(labels), 33)[:, 0, 0]
    assert np.bincount(np.array(labels)[chosen]).tolist() == [15, 15, 3]
    assert len(set(chosen.tolist())) == 33


def test_the_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    images = split_images([0, 1] * 60)
    drawn_images = [calibration_images(images, 20, seed) for seed in (0, 0, 1)]
    assert np.array_equal(drawn_images[0], drawn_images[1])
    assert not np.array_equal(drawn_images[0], drawn_images[2])
    assert len(calibration_images(images, 1000)) == 120, "a small split gives all of its images"
