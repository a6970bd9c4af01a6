"""Several hosts with one database and one object store are one home: real PostgreSQL, a real S3 server."""

import json
import os
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml
from upath import UPath

from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.defs.killed_runs import PROCESS_TAG
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import run
from captcha_assets_tests.defs.conftest import NARROW, Home
from captcha_assets_tests.defs.test_killed_runs import starting
from captcha_assets_tests.serving.conftest import postgres
from captcha_assets_tests.training.processes import wait_until

__all__ = ["postgres"]

pytestmark = pytest.mark.xdist_group("postgres")

#: The server lets every local user in, whatever the password.
PASSWORD = "hunter2"

ASSETS = ("image_index", "splits", "resnet18", "evaluation", "onnx_model", "champion")
ASSETS_OF_BATCHES = ("raw_batch", "image_table", "rejected_images")


@dataclass(frozen=True)
class Host:
    """A machine with a home of its own, and what it shares with others."""

    home: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return run(self.home, *arguments, **self.environment)

    def succeeded(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be this host from now on."""
        for name, value in {**self.environment, "CAPTCHA_HOME": str(self.home)}.items():
            monkeypatch.setenv(name, value)

    def settings(self) -> Settings:
        database, artifacts = (self.environment[f"CAPTCHA_{name}"] for name in ("DATABASE", "ARTIFACTS"))
        return Settings(paths=Paths(home=self.home, profile="shared", database=database, artifacts=artifacts))


@pytest.fixture
def hosts(
    tmp_path: Path, bucket: UPath, postgres: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Host, Host]:
    """Two hosts with one database and one store, both new."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    environment = {
        "CAPTCHA_PROFILE": "shared",
        "CAPTCHA_DATABASE": postgres().replace("postgres:@", f"postgres:{PASSWORD}@"),
        "CAPTCHA_ARTIFACTS": f"s3://{bucket.path.strip('/')}/artifacts",
    }
    for name in ("one", "other"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "training.yaml").write_text(yaml.safe_dump(NARROW))
    return Host(tmp_path / "one", environment), Host(tmp_path / "other", environment)


def versions(instance: dg.DagsterInstance) -> dict[str, str]:
    """The data version of each asset, and of each asset of the batch `first`."""
    keys = [(name, None) for name in ASSETS] + [(name, ["first"]) for name in ASSETS_OF_BATCHES]
    found = {}
    for name, partitions in keys:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=partitions), limit=1
        ).records
        event = records[0].asset_materialization if records else None
        found[name] = (event.tags or {})["dagster/data_version"] if event else "never"
    return found


@pytest.mark.slow
def test_what_one_host_registers_another_materializes_with_the_data_versions_of_one_machine(
    hosts: tuple[Host, Host], tmp_path: Path, finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    one.succeeded("batch", "add", "first", "synthetic:600:1")
    said = other.succeeded("update")
    assert "materializing raw_batch [first]: never materialized" in said
    synthetic_batches.write_archive(tmp_path / "images.zip", 3, seed=5)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        archive.extractall(tmp_path / "images")
    answers = one.succeeded("predict", str(tmp_path / "images"), "--json").splitlines()
    assert all(json.loads(answer)["label"] for answer in answers)
    assert len(answers) == 3
    assert "everything is up to date" in other.succeeded("status")
    one.enter(monkeypatch)
    with open_instance(one.settings()) as instance:
        assert versions(instance) == versions(finished.instance)
    assert list(files_with_the_password(tmp_path)) == []


def files_with_the_password(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and PASSWORD.encode() in path.read_bytes():
            yield path


def statuses(host: Host) -> list[str]:
    """The statuses of all runs, as a command on this host leaves them."""
    with open_instance(host.settings()) as instance:
        return sorted(run.status.value for run in instance.get_runs())


def test_a_host_ends_the_runs_of_its_own_killed_commands_and_no_others(
    hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    other.enter(monkeypatch)
    process = starting("STARTING", "STARTED")
    one.enter(monkeypatch)
    assert statuses(one) == ["STARTED", "STARTING"]
    process.kill()
    process.wait()
    assert statuses(one) == ["STARTED", "STARTING"]
    assert statuses(other) == ["FAILURE", "FAILURE"]
    assert statuses(one) == ["FAILURE", "FAILURE"]
    assert list(files_with_the_password(tmp_path)) == []


def test_a_home_keeps_the_profile_that_it_was_made_with(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    one.succeeded("status")
    done = run(one.home, "status")
    assert done.returncode == 1
    assert "which was made with the profile shared: set CAPTCHA_PROFILE=shared" in done.stderr
    assert run(other.home, "status").returncode == 0
    done = other.run("status")
    assert done.returncode == 1
    assert "which was made with the profile local: set CAPTCHA_PROFILE=local" in done.stderr


@pytest.mark.slow
def test_the_daemon_ends_the_runs_of_a_host_that_is_gone(
    hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is two days old; the host that executed it has a name that no other host knows."""
    one, _ = hosts
    one.enter(monkeypatch)
    run_id, old = str(uuid.uuid4()), time.time() - 2 * 86400
    with open_instance(one.settings()) as instance:
        instance.add_run(dg.DagsterRun("__ASSET_JOB", run_id=run_id, tags={PROCESS_TAG: "0" * 16}))
        event = dg.DagsterEvent("PIPELINE_START", "__ASSET_JOB")
        instance.handle_new_event(
            dg.EventLogEntry(
                error_info=None,
                level="debug",
                user_message="",
                run_id=run_id,
                timestamp=old,
                job_name="__ASSET_JOB",
                dagster_event=event,
            )
        )
        assert statuses(one) == ["STARTED"]
    command = [
        str(Path(sys.executable).with_name("dagster-daemon")),
        "run",
        "-w",
        str(REPOSITORY / "workspace.yaml"),
    ]
    environment = os.environ | {"DAGSTER_HOME": str(one.home / ".dagster")}
    with (tmp_path / "daemon.log").open("w") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=REPOSITORY)
    try:
        wait_until(lambda: statuses(one) == ["FAILURE"], seconds=240)
    finally:
        daemon.terminate()
        daemon.wait(60)
    assert list(files_with_the_password(tmp_path)) == []
