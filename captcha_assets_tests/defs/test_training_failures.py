"""A training that fails says why, on the terminal and in the alert, never that a process failed."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.defs.compute import local_compute
from captcha_assets.defs.compute.local_compute import LocalCompute
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.failures import TrainingFailedError, TrainingStoppedError, process_error
from captcha_assets_tests import training_server
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.test_training_run import placed, trainings, update, wait_until  # noqa: F401
from captcha_assets_tests.defs.trainings import run
from captcha_assets_tests.training.examples import job_on, write_batch

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

DIVERGES = "ops: {resnet18: {config: {learning_rate: 100.0, weight_decay: 10.0}}}"


def test_a_loss_that_is_nan_is_the_reason_on_the_terminal_and_in_the_alert(finished: Home) -> None:
    file = finished.settings.paths.home / "run.yaml"
    file.write_text(DIVERGES)
    done = CliRunner().invoke(main, ["update", "--select", "key:resnet18", "--config", str(file)])
    assert done.exit_code == 1
    reason = "the loss is NaN or infinite in epoch 1: lower learning_rate (now 100.0)"
    assert f"  failed: {reason}" in done.output
    assert "External execution process" not in done.output
    alert = json.loads(finished.settings.paths.alerts.read_text().splitlines()[-1])
    assert alert["title"] == "resnet18: the run failed"
    assert alert["lines"][0].startswith(reason)
    assert "no epoch was finished, so no checkpoint is kept" in alert["lines"][0]


def test_a_training_process_that_is_killed_names_the_signal(
    placed: Path,  # noqa: F811
    update: subprocess.Popen[str],  # noqa: F811
) -> None:
    for process in trainings(placed):
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: update.poll() is not None, 60, "the update still runs")
    log = (placed / "update.log").read_text()
    assert "failed: the training process was ended from outside by SIGKILL: perhaps the memory" in log
    assert "External execution process" not in log


def test_an_error_that_nobody_expected_is_reported_with_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / "timm").mkdir(parents=True)
    (tmp_path / "broken" / "timm" / "__init__.py").write_text("raise RuntimeError('a broken installation')")
    paths = [str(tmp_path / "broken"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setattr(local_compute, "COMMAND", training_server.REAL)  # a forked one has its libraries
    job = job_on(write_batch(tmp_path, 40), tmp_path / "work", TrainingSettings(epochs=1))
    with pytest.raises(TrainingFailedError, match=r"^RuntimeError: a broken installation \(its traceback"):
        run(LocalCompute(), job)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (
            -9,
            TrainingStoppedError,
            "the training process on the Ray cluster was ended from outside by SIGKILL: perhaps",
        ),
        (137, TrainingStoppedError, "by SIGKILL"),
        (143, TrainingStoppedError, "by SIGTERM; start the training again"),
        (3, TrainingFailedError, "no space left on the disk or in the quota: free some and run it again"),
        (1, TrainingFailedError, "on the Ray cluster ended with status 1 without a message"),
    ],
)
def test_a_process_that_could_not_say_why_it_ended_is_explained_by_its_status(
    status: int, kind: type[Exception], words: str
) -> None:
    error = process_error(status, " on the Ray cluster", "")
    assert isinstance(error, kind)
    assert words in str(error)
    assert str(process_error(1, "", "its own words")) == "its own words"
