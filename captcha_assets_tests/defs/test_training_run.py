"""A training that is stopped from outside: nothing lives on, and the next one goes on where it was."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import NARROW, made_once

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

PROGRAM = str(Path(sys.executable).with_name("captcha-assets"))


@pytest.fixture
def placed(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose images have their splits, and nothing more, to change at will."""
    made = made_once(
        tmp_path_factory,
        "with-splits",
        lambda folder: succeeded(folder, "batch", "add", "one", "synthetic:200:5", "--materialize"),
    )
    shutil.copytree(made, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


def environment(home: Path) -> dict[str, str]:
    variables = {**os.environ, "CAPTCHA_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    variables.pop("DAGSTER_HOME", None)
    return variables


def config(home: Path, epochs: int) -> Path:
    path = home / f"{epochs}.yaml"
    path.write_text(yaml.safe_dump({"ops": {"resnet18": {"config": {**NARROW, "epochs": epochs}}}}))
    return path


def trainings(home: Path) -> list[int]:
    """The training processes that work for this home."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"captcha_assets.training" in words and any(str(home).encode() in word for word in words):
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    for _moment in range(int(seconds * 10)):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"after {seconds} s: {what}")


@pytest.fixture
def update(placed: Path) -> Iterator[subprocess.Popen[str]]:
    """An update in the middle of a long training, with a checkpoint behind it."""
    command = [PROGRAM, "update", "--select", "key:resnet18", "--config", str(config(placed, 500))]
    log = (placed / "update.log").open("w")
    process = subprocess.Popen(command, env=environment(placed), stdout=log, stderr=log, text=True)
    try:
        wait_until(lambda: "epoch 2/500" in (placed / "update.log").read_text(), 300, "no epoch was trained")
        yield process
    finally:
        process.kill()
        process.wait()
        for left in trainings(placed):
            os.kill(left, signal.SIGKILL)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_a_run_leaves_no_process_behind(
    placed: Path, update: subprocess.Popen[str], stop: signal.Signals
) -> None:
    assert trainings(placed)
    update.send_signal(stop)
    wait_until(lambda: update.poll() is not None, 40, "the update still runs")
    wait_until(lambda: not trainings(placed), 20, "the training still runs")
    assert list((placed / ".scratch").rglob("*.ckpt")), "the last checkpoint is gone"


def test_an_interrupted_training_goes_on_where_it_was(placed: Path, update: subprocess.Popen[str]) -> None:
    update.send_signal(signal.SIGKILL)
    wait_until(lambda: not trainings(placed), 20, "the training still runs")
    command = [PROGRAM, "update", "--select", "key:resnet18", "--config", str(config(placed, 500))]
    log = placed / "second.log"
    again = subprocess.Popen(command, env=environment(placed), stdout=log.open("w"), stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "epoch" in log.read_text(), 300, "no epoch was trained")
        first = next(line for line in log.read_text().splitlines() if "epoch" in line)
        assert "epoch 1/500" not in first
    finally:
        again.kill()
        again.wait()
        wait_until(lambda: not trainings(placed), 20, "the training still runs")
