"""The platform as it runs by itself: web UI, daemon, code location, each a real process."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from captcha_assets.defs.model.retraining_sensor import WHY_TAG
from captcha_assets.models import registry
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.defs.conftest import NARROW

COMMAND = str(Path(sys.executable).with_name("captcha-assets"))
SENSORS = ("inbox_sensor", "automation", "retraining")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Platform:
    """A home whose UI and daemon run."""

    settings: Settings
    environment: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def runs(self) -> list[dg.DagsterRun]:
        with dg.DagsterInstance.from_config(str(self.settings.paths.dagster_home)) as instance:
            return list(instance.get_runs())

    def ticks(self) -> dict[str, int]:
        """How often each sensor ticked to an end."""
        with dg.DagsterInstance.from_config(str(self.settings.paths.dagster_home)) as instance:
            states = {state.instigator_name: state for state in instance.all_instigator_state()}
            return {
                name: len(instance.get_ticks(states[name].instigator_origin_id, states[name].selector_id))
                for name in SENSORS
                if name in states
            }

    def wait(self, until: Callable[[], bool], what: str) -> None:
        while not until():
            assert self.process.poll() is None, f"the platform ended:\n{self.log.read_text()[-4000:]}"
            time.sleep(2)
        assert until(), what

    def wait_for_ticks(self, number: int) -> None:
        before = self.ticks()
        self.wait(
            lambda: all(count >= before[name] + number for name, count in self.ticks().items()), "no ticks"
        )

    def drop(self, name: str, seed: int) -> Path:
        archive = self.settings.paths.home / name
        synthetic_batches.write_archive(archive, 400, seed=seed)
        self.settings.paths.inbox.mkdir(exist_ok=True)
        return archive.rename(self.settings.paths.inbox / name)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    home = tmp_path / "home"
    (home / "configs").mkdir(parents=True)
    (home / "configs" / "training.yaml").write_text(yaml.safe_dump(NARROW))
    environment = {**os.environ, "CAPTCHA_HOME": str(home)}
    environment["CAPTCHA_REPORTS_URL"] = f"http://localhost:{free_port()}"
    subprocess.run([COMMAND, "automation", "on"], env=environment, check=True, capture_output=True)
    log = tmp_path / "ui.log"
    command = [COMMAND, "ui", "--port", str(free_port())]
    process = subprocess.Popen(command, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    try:
        yield Platform(Settings(paths=Paths(home=home)), environment, process, log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_batch_in_the_inbox_becomes_the_champion_without_a_further_hand(platform: Platform) -> None:
    """Drop a batch and wait; drop the same again, and nothing happens; a command works beside it."""
    archive = platform.drop("october.zip", seed=1)
    copy = shutil.copy2(archive, platform.settings.paths.home / "kept.zip")
    platform.wait(lambda: registry.champion(platform.settings.paths.models) is not None, "no champion")
    platform.wait(lambda: all(run.is_finished for run in platform.runs()), "runs that never end")

    runs = platform.runs()
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * len(runs)
    (training,) = [run for run in runs if run.job_name == "retrain"]
    assert training.tags[WHY_TAG] == "the first training: there was no model"
    champion = registry.champion(platform.settings.paths.models)
    assert champion is not None
    assert (platform.settings.paths.evaluation(champion.model_id) / "report.html").exists()
    assert (platform.settings.paths.onnx_model(champion.model_id) / "model.onnx").exists()

    shutil.move(copy, platform.settings.paths.inbox / "october.zip")
    arguments = ["backfill", "image_table", "--batches", "october"]
    done = subprocess.run(
        [COMMAND, *arguments], env=platform.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 materialized, 0 failed" in done.stdout
    platform.wait_for_ticks(2)
    known = {run.run_id for run in runs}
    (backfill,) = [run for run in platform.runs() if run.run_id not in known]
    assert backfill.is_finished
    assert backfill.tags["dagster/partition"] == "october"

    arguments = ["automation", "off"]
    said = subprocess.run(
        [COMMAND, *arguments], env=platform.environment, capture_output=True, text=True, check=True
    )
    assert [line.split(": ")[1] for line in said.stdout.splitlines()] == ["off"] * 4
