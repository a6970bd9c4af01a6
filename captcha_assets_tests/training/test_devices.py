"""Several devices train one model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets.models import folder
from captcha_assets.training.config import TrainingSettings
from captcha_assets_tests.training.examples import draw_many, job_on, write_splits, write_table

SETTINGS = TrainingSettings(epochs=5, batch_size=32, channels=(8, 8, 16, 16), accelerator="cpu")


def train(place: Path, devices: int) -> Path:
    images, labels = draw_many(600, classes=["c", "w", "7"])
    ids = write_table(place / "drawn.parquet", "drawn", images, labels)
    write_splits(place / "splits.parquet", ids, labels, ["drawn"] * len(ids))
    job = job_on(
        ([place / "drawn.parquet"], place / "splits.parquet"),
        place / str(devices),
        SETTINGS.replaced(devices=devices),
    )
    job.save(place / f"job{devices}.json")
    command = [sys.executable, "-m", "captcha_assets.training", str(place / f"job{devices}.json")]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("training and") == 1, "more than one process reported"
    assert ("each CPU process uses its own part of the mini-batch" in ended.stdout) == (devices > 1)
    assert not job.checkpoints.exists()
    return job.output


@pytest.mark.slow
def test_two_cpu_processes_train_one_model_and_say_that_batch_normalization_is_not_synchronized(tmp_path):
    model = train(tmp_path, 2)
    metrics = folder.read_metrics(model)
    assert metrics["validation_accuracy"] > 0.9
    assert metrics["validation_images"] == 120
    assert len(folder.read_history(model)) == SETTINGS.epochs
