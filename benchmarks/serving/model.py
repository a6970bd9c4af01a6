"""The model that all servers run, and what all of them do with a request."""

import base64
import json
import os
from pathlib import Path

import cv2
import numpy as np

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.decode import decode
from captcha_assets.models.predictor import OnnxPredictor, spec_of_inputs

#: Where the other servers find the exported model.
VARIABLE = "BENCHMARK_MODEL"
BATCH_SIZE = 64


def make_home(home: Path) -> Path:
    """Fill a home with a resnet18 of full size, never trained, as champion; return the exported model."""
    import torch

    from captcha_assets.models import folder, onnx_export, registry
    from captcha_assets.models.network import build
    from captcha_assets.paths import Paths

    paths, channels = Paths(home=home), (64, 128, 256, 512)
    torch.manual_seed(0)
    config = folder.ModelConfig(
        architecture="resnet18", channels=channels, classes=CAPTCHA.classes,
        input_size=(CAPTCHA.height, CAPTCHA.width), mean=0.7, std=0.2, temperature=1.0, seed=0,
        splits_version="none", code_version="none",
    )  # fmt: skip
    folder.save(home / "model", build("resnet18", channels, len(CAPTCHA.classes)), config, [], {})
    model_id = registry.add_candidate(paths.models, home / "model")
    onnx_export.export(home / "model", paths.onnx_model(model_id), images(16))
    registry.promote(paths.models, model_id, "a benchmark")
    return Path(paths.onnx_model(model_id))


def images(count: int) -> np.ndarray:
    """Generated characters."""
    from captcha_assets.sources.synthetic_batches import generate

    return np.stack([image for _, image in generate(count, seed=1)])


def png_files(count: int) -> list[bytes]:
    """Generated characters as PNG files."""
    return [cv2.imencode(".png", image)[1].tobytes() for image in images(count)]


class Model:
    """What a request of another server goes through: the same decoder and session as in the service."""

    def __init__(self) -> None:
        self._predictor = OnnxPredictor(Path(os.environ[VARIABLE]))
        self._spec = spec_of_inputs(self._predictor.config, CAPTCHA)

    def pixels(self, file: bytes) -> np.ndarray:
        """Decode an image file."""
        return decode(file, self._spec).pixels

    def pixels_of_base64(self, text: str) -> np.ndarray:
        """Decode an image file in base64."""
        return self.pixels(base64.b64decode(text))

    def answers(self, pixels: list[np.ndarray]) -> list[dict]:
        """Say what the service says, without the inference id."""
        classes, found = self._predictor.config.classes, []
        for row in np.round(self._predictor.predict(np.stack(pixels)).astype(float), 6).tolist():
            scores = dict(zip(classes, row, strict=True))
            label = max(scores, key=scores.__getitem__)
            found.append({"label": label, "score": scores[label], "scores": scores})
        return found


def in_base64(file: bytes) -> str:
    """Return an image file in base64."""
    return base64.b64encode(file).decode()


def as_json(value: object) -> bytes:
    """Return JSON as bytes."""
    return json.dumps(value).encode()
