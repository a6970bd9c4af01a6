"""Models that were never trained: narrow networks, built in a moment."""

import shutil
from pathlib import Path

import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models import folder
from captcha_assets.models.folder import ModelConfig
from captcha_assets_tests.defs.conftest import made_once
from captcha_assets_tests.training.examples import draw_many

CHANNELS = (4, 4, 8, 8)


def make_model(place: Path, seed: int = 0, **changes) -> str:
    """Write a model folder and return its id."""
    import torch

    from captcha_assets.models.network import build

    torch.manual_seed(seed)
    network = build("resnet18", CHANNELS, len(CAPTCHA.classes))
    config = ModelConfig(
        architecture="resnet18",
        channels=CHANNELS,
        classes=CAPTCHA.classes,
        input_size=(52, 32),
        mean=0.7,
        std=0.2,
        temperature=1.5,
        seed=seed,
        splits_version="v1",
        code_version="c1",
    )
    config = ModelConfig(**(vars(config) | changes))
    return folder.save(
        place, network, config, [{"epoch": 1, "train_loss": 2.5}], {"validation_accuracy": 0.5}
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[Path]:
    """Three different model folders."""
    places = [tmp_path_factory.mktemp("models") / str(seed) for seed in range(3)]
    for seed, place in enumerate(places):
        make_model(place, seed)
    return places


@pytest.fixture(scope="session")
def exported(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the first of them, compared with it on 70 drawn characters: not to be changed."""

    def make(place: Path) -> None:
        from captcha_assets.models import onnx_export

        onnx_export.export(models[0], place, draw_many(70)[0])

    return made_once(tmp_path_factory, "exported", make)


def as_if_nothing_served(models: Path) -> None:
    """Take the history of what served out of a registry, and what says that there was one."""
    shutil.rmtree(models / "history")
    (models / "latest_change.json").unlink()
