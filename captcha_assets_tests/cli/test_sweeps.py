"""What `sweep run` says of trials and of the leaderboard, without any training."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from captcha_assets.paths import Paths
from captcha_assets.sweeps import definition, trial_records, trial_training
from captcha_assets.sweeps.trial_records import COMPLETE
from captcha_assets_tests.commands import run, succeeded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a sweep with one trial."""
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"grid": {"epochs": [1]}}))
    return path


def record_as_complete(paths: Paths, file: Path) -> str:
    """Record the one trial of a sweep as complete on the images of today, and return its name."""
    paths.splits.parent.mkdir(parents=True)
    pq.write_table(pa.table({"image_id": ["a"], "batch": ["b"]}), paths.splits)
    sweep = definition.load(file)
    (trial,) = sweep.trial_names
    history = [{"epoch": 1, "validation_accuracy": 0.9}]
    plan = trial_training.planned(paths, sweep, trial)
    trial_records.save(paths, replace(plan, state=COMPLETE, value=0.9, history=history))
    return trial


def test_a_damaged_record_does_not_end_the_sweep(file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (trial,) = definition.load(file).trial_names
    record = Paths(home=home).sweep_trial(trial)
    record.parent.mkdir(parents=True)
    record.write_text('{"trial": ')
    done = run(home, "sweep", "run", str(file))
    assert done.returncode == 1
    assert f"[1/1] {trial}: failed: there is no batch yet" in done.stdout
    assert "0 trained, 1 failed" in done.stdout
    assert done.stderr == f"Error: failed: {trial}; run it again to try them again\n"


def test_a_leaderboard_that_cannot_be_written_is_said_and_decides_the_exit_status(
    file: Path, tmp_path: Path
) -> None:
    paths = Paths(home=tmp_path / "home")
    record_as_complete(paths, file)
    paths.sweep_leaderboard.mkdir()  # a folder where the file belongs
    done = run(paths.home, "sweep", "run", str(file))
    assert "1 trained, 0 failed" in done.stdout
    assert done.returncode == 1
    assert done.stderr.startswith("Error: sweep_leaderboard failed: ")
    assert str(paths.sweep_leaderboard) in done.stderr
    paths.sweep_leaderboard.rmdir()
    assert "every trial is up to date" in succeeded(paths.home, "sweep", "run", str(file))
    assert paths.sweep_leaderboard.is_file()


def test_what_a_killed_process_left_of_a_trial_that_is_recorded_is_removed(
    file: Path, tmp_path: Path
) -> None:
    paths = Paths(home=tmp_path / "home")
    trial = record_as_complete(paths, file)
    checkpoint = paths.scratch / "sweep" / trial / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert "1 trained, 0 failed" in succeeded(paths.home, "sweep", "run", str(file))
    assert list((paths.scratch / "sweep").iterdir()) == []
