"""Which candidate was trained on newer data, from the splits that the trainings found."""

from pathlib import Path

import polars as pl
import pytest

from captcha_assets.atomic_files import replacing
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import registry
from captcha_assets.models.newer_data import newer_data
from captcha_assets.settings import Settings
from captcha_assets_tests.models.conftest import make_model


@pytest.fixture
def trained_on(settings: Settings, tmp_path: Path):
    """Register a model that was trained on the images of these numbers, and return its id."""

    def train(seed: int, numbers: range, *, kept: bool = True, **training: object) -> str:
        frame = pl.DataFrame(
            {
                "image_id": [f"{number:032x}" for number in numbers],
                "split": ["test" if number % 5 == 0 else "train" for number in numbers],
                "label": "a",
                "batch": "one",
            }
        )
        version = _write(settings.paths.splits, frame)
        model_id = make_model(tmp_path / str(seed), seed, splits_version=version, settings=dict(training))
        if kept:
            with replacing(settings.paths.training_splits(model_id)) as part:
                part.write_bytes(settings.paths.splits.read_bytes())
        return registry.add_candidate(settings.paths.models, tmp_path / str(seed))

    return train


def _write(path, frame: pl.DataFrame) -> str:
    """Write the splits and return their data version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return version_of(path)


def newer(settings: Settings, candidate: str, champion: str) -> str | None:
    return newer_data(settings.paths, candidate, champion, version_of(settings.paths.splits))


def test_new_training_images_are_newer_data(settings, trained_on):
    champion, candidate = trained_on(0, range(100)), trained_on(1, range(150))
    assert newer(settings, candidate, champion) == "trained on 40 images that the champion was not trained on"


def test_the_same_splits_are_no_newer_data(settings, trained_on):
    champion, candidate = trained_on(0, range(100)), trained_on(1, range(100))
    assert newer(settings, candidate, champion) is None


def test_removed_images_make_todays_splits_newer(settings, trained_on):
    champion, candidate = trained_on(0, range(100)), trained_on(1, range(60))
    said = "trained on today's splits, the champion on former ones"
    assert newer(settings, candidate, champion) == said
    assert newer(settings, champion, candidate) == "trained on 32 images that the champion was not trained on"


def test_older_splits_without_new_images_are_no_newer_data(settings, trained_on):
    candidate, champion = trained_on(0, range(60)), trained_on(1, range(100))
    assert newer(settings, candidate, champion) is None


def test_where_the_images_are_not_recorded_the_version_of_the_splits_decides(settings, trained_on):
    champion, candidate = trained_on(0, range(100), kept=False), trained_on(1, range(150))
    assert newer(settings, candidate, champion) == "trained on today's splits, the champion on former ones"
