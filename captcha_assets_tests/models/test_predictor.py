"""Two predictors, one answer: torch and the exported model agree, and reject images of another size."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx as onnx_library
import pytest
import torch

from captcha_assets.models import folder, onnx_export
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.models.onnx_export import ExportError
from captcha_assets.models.predictor import ImageSizeError, OnnxPredictor, TorchPredictor
from captcha_assets_tests.training.examples import draw_many


@pytest.fixture(scope="module")
def images():
    return draw_many(70)[0]


@pytest.fixture(scope="module")
def parity(exported):
    return onnx_export.Parity(**json.loads((exported / "parity.json").read_text()))


@pytest.fixture(scope="module")
def predictors(models, exported):
    return [TorchPredictor(models[0], batch_size=16), OnnxPredictor(exported, batch_size=16)]


def test_the_export_agrees_with_the_model_it_was_made_from(exported, parity, predictors, images):
    ours, theirs = (predictor.predict(images) for predictor in predictors)
    assert parity.max_abs_difference < 1e-5
    assert parity.agreement == 1
    assert parity.images == len(images)
    assert parity.bytes == (exported / "model.onnx").stat().st_size
    assert parity.passed
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_export_that_disagrees_does_not_pass(parity):
    values = vars(parity)
    assert not onnx_export.Parity(**values | {"agreement": 0.99}).passed
    assert not onnx_export.Parity(**values | {"max_abs_difference": 0.01}).passed


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(models, predictors, images):
    loaded = folder.load(models[0])
    normal = (torch.from_numpy(images)[:, None].float() / 255 - loaded.config.mean) / loaded.config.std
    with torch.inference_mode():
        expected = torch.softmax(loaded.model(normal) / loaded.config.temperature, 1).numpy()
    for predictor in predictors:
        answers = predictor.predict(images)
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, atol=1e-5)
        np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


def test_an_image_gets_the_same_answer_alone_and_among_others(predictors, images):
    for predictor in predictors:
        together = predictor.predict(images)
        for index in (0, 15, 16, 69):
            np.testing.assert_allclose(
                predictor.predict(images[index : index + 1])[0], together[index], atol=1e-6
            )


def test_no_images_get_no_answers(predictors):
    for predictor in predictors:
        assert predictor.predict(np.zeros((0, 52, 32), np.uint8)).shape == (0, 20)


def test_images_of_another_size_or_type_are_rejected(predictors):
    for predictor in predictors:
        for wrong in (np.zeros((2, 32, 52), np.uint8), np.zeros((52, 32), np.uint8), np.zeros((2, 52, 32))):
            with pytest.raises(ImageSizeError, match=r"the model takes uint8 \(N, 52, 32\)"):
                predictor.predict(wrong)


def test_a_predictor_may_be_asked_by_several_threads(predictors, images):
    for predictor in predictors:
        expected = predictor.predict(images)
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(predictor.predict, [images] * 8):
                np.testing.assert_allclose(answer, expected, atol=1e-6)


@pytest.mark.slow
def test_the_same_model_gives_the_same_export_to_the_byte(models, exported, images, tmp_path):
    onnx_export.export(models[0], tmp_path / "again", images)
    for file in exported.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_exported_model_needs_no_knowledge_of_ours(exported):
    model = onnx_library.load(exported / "model.onnx")
    onnx_library.checker.check_model(model, full_check=True)
    (given,), (made,) = model.graph.input, model.graph.output
    assert (given.name, made.name) == ("images", "probabilities")
    assert given.type.tensor_type.elem_type == onnx_library.TensorProto.UINT8
    sizes = [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, 52, 32]
    assert b"site-packages" not in (exported / "model.onnx").read_bytes()


def test_an_export_without_images_is_rejected(models, tmp_path):
    with pytest.raises(ExportError, match="no images"):
        onnx_export.export(models[0], tmp_path / "onnx", np.zeros((0, 52, 32), np.uint8))
    assert not (tmp_path / "onnx").exists()


def test_a_damaged_export_is_rejected(exported, models, tmp_path):
    place = shutil.copytree(exported, tmp_path / "onnx")
    content = bytearray((place / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"model\.onnx is damaged"):
        OnnxPredictor(place)
    with pytest.raises(ModelFolderError, match=r"holds no model\.onnx: export"):
        OnnxPredictor(models[0])


def test_the_exported_model_is_served_without_torch(exported):
    code = (
        "import sys, numpy\nfrom pathlib import Path\n"
        "from captcha_assets.models.predictor import OnnxPredictor\n"
        "OnnxPredictor(Path(sys.argv[1])).predict(numpy.zeros((3, 52, 32), numpy.uint8))\n"
        "sys.exit(', '.join({'torch', 'timm', 'polars', 'pydantic', 'upath'} & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(exported)], check=False).returncode == 0
