"""A narrow model that has learned to read drawn characters, trained in seconds."""

from pathlib import Path

import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models import folder, onnx_export
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets_tests.defs.conftest import made_once
from captcha_assets_tests.training.examples import draw_many

CHANNELS = (8, 16, 16, 32)
EPOCHS, BATCH_SIZE = 10, 64


def drawn(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Characters and their classes, as positions in the classes."""
    images, labels = draw_many(number, seed)
    return images, np.array([CAPTCHA.classes.index(label) for label in labels])


def make_trained_model(place: Path, seed: int = 0) -> str:
    """Train a model, write its folder and return its id."""
    import torch

    from captcha_assets.models.network import build

    pixels, labels = (torch.from_numpy(one) for one in drawn(640, seed=1000 + seed))
    normal = ((pixels[:, None].float() / 255 - 0.7) / 0.2).to(memory_format=torch.channels_last)
    torch.manual_seed(seed)
    network = build("resnet18", CHANNELS, len(CAPTCHA.classes)).train()
    steps = EPOCHS * len(labels) // BATCH_SIZE
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(network(normal[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    config = folder.ModelConfig(
        architecture="resnet18", channels=CHANNELS, classes=CAPTCHA.classes, input_size=(52, 32), mean=0.7,
        std=0.2, temperature=1.0, seed=seed, splits_version="v1", code_version="c1",
    )  # fmt: skip
    return folder.save(place, network.eval(), config, [{"epoch": 1}], {"validation_accuracy": 0.5})


def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds a trained model (`model`) and its export (`onnx`): to be copied."""
    return made_once(tmp_path_factory, "trained", _make)


def _make(place: Path) -> None:
    place.mkdir()
    make_trained_model(place / "model")
    onnx_export.export(place / "model", place / "onnx", drawn(40, seed=1)[0])


def clear(export: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return 500 characters that the export is surest of: what int8 reads as well, on whatever processor."""
    images, labels = drawn(1000, seed=5)
    surest = OnnxPredictor(export).predict(images).max(1).argsort()[-500:]
    return images[surest], labels[surest]
