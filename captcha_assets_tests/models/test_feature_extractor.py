from pathlib import Path

import numpy as np
import pytest

from captcha_assets.models import folder
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.models.manifest import ModelFolderError, sha256, writing_folder
from captcha_assets.models.predictor import ImageSizeError, OnnxPredictor


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 52, 32), dtype=np.uint8)


def test_the_last_layer_makes_the_probabilities_of_the_features(models: list[Path], exported: Path) -> None:
    probabilities, features = FeatureExtractor(exported, batch_size=5).extract(_images(12))
    loaded = folder.load(models[0])
    weights = {name: value.numpy() for name, value in loaded.model.fc.state_dict().items()}
    logits = (features @ weights["weight"].T + weights["bias"]) / loaded.config.temperature
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert features.shape == (12, loaded.config.channels[-1])
    assert probabilities == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-5)


def test_the_probabilities_are_those_that_are_served(exported: Path) -> None:
    before = sha256(exported / "model.onnx")
    probabilities, _ = FeatureExtractor(exported).extract(_images(12))
    assert probabilities == pytest.approx(OnnxPredictor(exported).predict(_images(12)), abs=1e-6)
    assert sha256(exported / "model.onnx") == before


def test_no_images_have_no_features(exported: Path) -> None:
    probabilities, features = FeatureExtractor(exported).extract(_images(0))
    assert (probabilities.shape, features.shape) == ((0, 20), (0, 8))


def test_images_of_another_size_are_named(exported: Path) -> None:
    with pytest.raises(ImageSizeError, match="the model takes"):
        FeatureExtractor(exported).extract(np.zeros((2, 10, 10), np.uint8))


def test_a_damaged_export_is_named(exported: Path, tmp_path: Path) -> None:
    with writing_folder(tmp_path / "other") as part:
        (part / "config.json").write_bytes((exported / "config.json").read_bytes())
    with pytest.raises(ModelFolderError, match=r"holds no model\.onnx"):
        FeatureExtractor(tmp_path / "other")


def test_a_graph_without_a_linear_layer_has_no_features(exported: Path, tmp_path: Path) -> None:
    import onnx

    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", 1, 52, 32])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["n", 1, 52, 32])
    cast = onnx.helper.make_node("Cast", ["images"], ["out"], to=onnx.TensorProto.FLOAT)
    with writing_folder(tmp_path / "other") as part:
        (part / "config.json").write_bytes((exported / "config.json").read_bytes())
        onnx.save(
            onnx.helper.make_model(onnx.helper.make_graph([cast], "g", [images], [out])), part / "model.onnx"
        )
    with pytest.raises(ModelFolderError, match="has no linear layer"):
        FeatureExtractor(tmp_path / "other")
