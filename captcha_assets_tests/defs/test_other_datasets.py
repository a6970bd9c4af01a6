"""The whole pipeline takes another data set by another spec, and by no other change."""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.datasets import load_digits, load_sample_images

from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.dataset import DatasetSpec
from captcha_assets.definitions import build_definitions
from captcha_assets.models import registry
from captcha_assets.models.folder import read_config
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.digits import DATASET as DIGITS
from captcha_assets_tests.images.tables import rows_of

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

PHOTOS = DatasetSpec(
    name="photos",
    classes=("china", "flower"),
    height=40,
    width=48,
    channels=3,
    formats=("jpeg",),
    label_from="folder",
    other_sizes="resize",
)
Open = Callable[[DatasetSpec], Home]


@pytest.fixture
def open_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a home of another data set."""
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path / "home"))
    settings = Settings(paths=Paths(home=tmp_path / "home"))
    with open_instance(settings) as instance:
        yield lambda spec: Home(settings, instance, with_quiet_console(build_definitions(spec)))


def encoded(image: np.ndarray, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


def write(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return str(path)


def errors(home: Home, selection: str, **training: object) -> dict[str, str | None]:
    """Materialize what is selected with these production settings, and return the errors by asset."""
    small = {"channels": [8, 16, 16, 32], "batch_size": 32, "sample_size": None, "learning_rate": 0.05}
    settings = home.settings.paths.training_settings
    settings.parent.mkdir(parents=True)
    settings.write_text(yaml.safe_dump({**small, **training}))
    return {str(outcome.step): outcome.error for outcome in home.update(selection, {}) if outcome.error}


def test_digits_become_a_champion(open_home: Open, tmp_path: Path) -> None:
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    members = {
        f"{label}_{n}.png": encoded(image, ".png")
        for n, (image, label) in enumerate(zip(images, digits.target, strict=True))
    }
    home = open_home(DIGITS)
    home.add("digits", write(tmp_path / "digits.zip", members))
    assert errors(home, "*champion", epochs=10, rotation=0.0, shift=0.5, scale=0.0) == {}
    champion = registry.champion(home.settings.paths.models)
    assert champion is not None
    exported = Path(str(home.settings.paths.onnx_model(champion.model_id)))
    known = read_config(exported)
    assert (known.classes, known.image_shape) == (DIGITS.classes, (8, 8))
    splits = rows_of(home.settings.paths.splits)
    assert len(splits) > 1_700
    predictions = pl.read_parquet(
        io.BytesIO((home.settings.paths.evaluation(champion.model_id) / "predictions.parquet").read_bytes())
    )
    assert (predictions["label"] == predictions["predicted"]).mean() >= 0.9
    probabilities = OnnxPredictor(exported).predict(images)
    assert (probabilities.argmax(axis=1) == digits.target).mean() >= 0.9
    assert home.stale() == ["data_report", "data_snapshot"]


def crops(rng: np.random.Generator, number: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield pieces of unequal sizes of two photographs, RGB."""
    for label, photo in zip(PHOTOS.classes, load_sample_images().images, strict=True):
        for _ in range(number):
            height, width = rng.integers(40, 120, 2)
            top, left = rng.integers(0, photo.shape[0] - height), rng.integers(0, photo.shape[1] - width)
            yield label, photo[top : top + height, left : left + width]


def test_rgb_jpeg_images_of_unequal_sizes_in_folders_become_a_champion(
    open_home: Open, tmp_path: Path
) -> None:
    pieces = list(crops(np.random.default_rng(0), 40))
    members = {
        f"photos/{label}/{n}.jpg": encoded(piece[..., ::-1], ".jpg")
        for n, (label, piece) in enumerate(pieces)
    }
    members["photos/china/cut.jpg"] = members["photos/china/0.jpg"][:-200]
    home = open_home(PHOTOS)
    home.add("photos", write(tmp_path / "photos.zip", members))
    assert errors(home, "*champion", epochs=1) == {}
    table = pl.read_parquet(str(home.settings.paths.image_table("photos")))
    assert (len(table), set(table["source_mode"])) == (80, {"RGB"})
    rejected = pl.read_parquet(str(home.settings.paths.rejected_images("photos")))
    assert rejected.select("member", "reason").rows() == [("photos/china/cut.jpg", "corrupt")]
    champion = registry.champion(home.settings.paths.models)
    assert champion is not None
    predictor = OnnxPredictor(Path(str(home.settings.paths.onnx_model(champion.model_id))))
    assert predictor.config.image_shape == (40, 48, 3)
    pixels = np.frombuffer(table["pixels"][0], np.uint8).reshape(1, 40, 48, 3)
    expected = cv2.resize(pieces[0][1], (48, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(pixels[0].astype(int) - expected).mean() < 8  # JPEG, and no swapped colours
    assert predictor.predict(pixels).shape == (1, 2)
