"""What `sweep run` says of trials and of the leaderboard, without any training."""

from pathlib import Path

import pytest
import yaml

from captcha_assets.paths import Paths
from captcha_assets.sweeps import definition
from captcha_assets_tests.commands import run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of a sweep with one trial."""
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"grid": {"epochs": [1]}}))
    return path


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
