"""Several hosts with one database and one object store are one home: real PostgreSQL, a real S3 server."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from upath import UPath

from captcha_assets import alerts, definitions
from captcha_assets.alerts import Alert, send_new, was_sent
from captcha_assets.atomic_files import AnyPath, move
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.dataset import CAPTCHA
from captcha_assets.defs.killed_runs import PROCESS_TAG
from captcha_assets.images.label_decisions import read_decisions, version_of
from captcha_assets.images.split_record import AssignmentError, AssignmentRecord
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, inbox, synthetic_batches
from captcha_assets.sweeps.production_settings import make_production, production_settings
from captcha_assets_tests.commands import run
from captcha_assets_tests.defs.conftest import NARROW, Home, with_quiet_console
from captcha_assets_tests.defs.ray_nodes import free_ports
from captcha_assets_tests.defs.test_inbox import tick
from captcha_assets_tests.defs.test_killed_runs import starting
from captcha_assets_tests.serving.conftest import postgres
from captcha_assets_tests.training.processes import wait_until

__all__ = ["postgres"]

pytestmark = [pytest.mark.xdist_group("postgres"), pytest.mark.timeout(1800)]

#: The server lets every local user in, whatever the password.
PASSWORD = "hunter2"

ASSETS = ("image_index", "splits", "data_snapshot", "resnet18", "evaluation", "onnx_model", "champion")
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
        "CAPTCHA_ARTIFACTS": f"s3://{bucket.path.strip('/')}/captcha/artifacts",
    }
    shared_home = UPath(environment["CAPTCHA_ARTIFACTS"], use_listings_cache=False).parent
    (shared_home / "configs" / "training.yaml").write_text(yaml.safe_dump(NARROW))
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


@contextmanager
def daemon(host: Host, log_file: Path) -> Iterator[None]:
    """Run Dagster's daemon on a host, in whose environment this process is, as long as the block runs."""
    command = [
        str(Path(sys.executable).with_name("dagster-daemon")),
        "run",
        "-w",
        str(REPOSITORY / "workspace.yaml"),
    ]
    environment = os.environ | {"DAGSTER_HOME": str(host.home / ".dagster")}
    with log_file.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=REPOSITORY)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_an_archive_in_the_inbox_becomes_a_model_with_the_data_versions_of_one_machine(
    hosts: tuple[Host, Host], tmp_path: Path, finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hosts
    dropped = drop(one.settings().paths.inbox, "first.zip", seed=1, count=600)
    one.enter(monkeypatch)
    with open_instance(one.settings()) as instance:
        home = Home(one.settings(), instance, with_quiet_console(definitions.defs()))
        (request,) = tick(home).run_requests or ()
        ingestion = home.definitions.resolve_job_def("ingest_batch").execute_in_process(
            instance=instance, partition_key=request.partition_key, tags=dict(request.tags)
        )
    assert ingestion.success
    assert not dropped.exists()
    other.succeeded("update")
    synthetic_batches.write_archive(tmp_path / "images.zip", 3, seed=5)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        archive.extractall(tmp_path / "images")
    answers = one.succeeded("predict", str(tmp_path / "images"), "--json").splitlines()
    assert all(json.loads(answer)["label"] for answer in answers)
    assert len(answers) == 3
    for host in hosts:
        assert "everything is up to date" in host.succeeded("status")
        assert not (host.home / "data").exists()
    one.enter(monkeypatch)
    with open_instance(one.settings()) as instance:
        assert versions(instance) == versions(finished.instance)
    assert list(files_with_the_password(tmp_path)) == []


def test_an_archive_is_fetched_by_one_host_read_by_every_host_and_removed_for_all(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (host.settings() for host in hosts)
    batch_registration.register(one, "first", batch_registration.parse_source("synthetic:40:1"))
    fetched = batch_registration.fetch(one, "first")
    assert batch_registration.fetch(other, "first", pytest.fail) == fetched
    assert str(fetched.path) == str(one.paths.artifact_root.parent / "data" / "raw" / "first.zip")
    batch_registration.remove(other.paths, "first")
    assert not batch_registration.has_left(one.paths, "first")
    assert batch_registration.known_batches(one.paths) == []


def drop(folder: AnyPath, name: str, seed: int, count: int = 40) -> AnyPath:
    """Copy an archive into the inbox."""
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, name)
        synthetic_batches.write_archive(archive, count, seed=seed)
        (folder / name).write_bytes(archive.read_bytes())
    return folder / name


def test_an_archive_in_the_inbox_of_the_store_is_taken_once_by_any_host(hosts: tuple[Host, Host]) -> None:
    one, other = (host.settings() for host in hosts)
    dropped = drop(one.paths.inbox, "October 2026.zip", seed=1)
    content = dropped.read_bytes()
    (one.paths.inbox / "notes.txt").write_text("hello")
    (one.paths.inbox / "damaged.zip").write_text("no zip")
    (one.paths.inbox / "coming.zip.part").write_bytes(content)
    for settings in (one, other):
        found = inbox.scan(settings.paths, now=time.time() + 120)
        assert [arrival.batch for arrival in found.arrivals] == ["october-2026"]
        assert {left.name for left in found.problems} == {"notes.txt", "damaged.zip"}
        for arrival in found.arrivals:
            inbox.take(settings.paths, arrival)
    assert str(batch_registration.fetch(other, "october-2026").source) == str(dropped)
    assert (one.paths.raw / "october-2026.zip").read_bytes() == content
    assert not dropped.exists()
    assert inbox.scan(one.paths, now=time.time() + 120).arrivals == []
    dropped.write_bytes(content)
    again = inbox.scan(one.paths, now=time.time() + 120)
    assert any("has been delivered already, as october-2026" in left.reason for left in again.left)


def test_an_object_that_takes_the_place_of_one_that_is_fetched_stays_in_the_inbox(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hosts[0].settings()
    dropped = drop(settings.paths.inbox, "a.zip", seed=1)
    (arrival,) = inbox.scan(settings.paths).arrivals
    inbox.take(settings.paths, arrival)

    def replaced(*arguments: Any) -> None:
        drop(settings.paths.inbox, "a.zip", seed=2)
        move(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batch_registration, "move", replaced)
        batch_registration.fetch(settings, "a")
    assert dropped.exists()
    (second,) = inbox.scan(settings.paths).arrivals
    assert second.batch != "a"
    assert second.sha256 != arrival.sha256


@pytest.mark.slow
def test_a_backup_holds_what_lies_on_the_store_and_brings_it_back_there(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    one, other = hosts
    assert not one.home.exists()
    one.succeeded("batch", "add", "first", "synthetic:40:1")
    one.succeeded("update", "--select", "key:raw_batch or key:data_snapshot")
    store = one.settings().paths.shared_root
    alerts.send(one.settings(), Alert("a run failed"))
    saved, kept = tmp_path / "backup.zip", tmp_path / "with archives.zip"
    said = one.succeeded("backup", "create", str(saved))
    assert f"not in it: the archives of the batches: {store / 'data' / 'raw'} has them" in said
    one.succeeded("backup", "create", str(kept), "--archives")
    before = {path: (store / path).read_bytes() for path in ("data/raw/first.zip", "data.dvc")}
    assert len(list((store / "alerts").iterdir())) == 1
    for name in ("data", "artifacts", "alerts"):
        (store / name).rmdir(recursive=True)
    (store / "data.dvc").unlink()
    other.succeeded("backup", "restore", str(kept))
    assert {path: (store / path).read_bytes() for path in before} == before
    assert len(list((store / "alerts").iterdir())) == 1
    assert "first" in other.succeeded("batch", "list")


def test_an_alert_that_one_host_sent_no_other_sends_again(hosts: tuple[Host, Host]) -> None:
    one, other = (host.settings() for host in hosts)
    begun, alert = datetime.now(UTC), Alert("a run failed", ("of image_table",))
    for settings in (one, other):
        send_new(settings, [alert], cursor=None, since=begun)
    send_new(other, [Alert("another run failed")], cursor=None, since=begun)
    noted = [json.loads(path.read_text()) for path in one.paths.alerts.iterdir()]
    assert sorted(entry["title"] for entry in noted) == ["a run failed", "another run failed"]
    assert was_sent(other.paths.alerts, alert)
    assert not was_sent(other.paths.alerts, alert, since=begun + timedelta(minutes=1))


def test_the_assignments_of_one_host_are_in_the_record_of_every_host(hosts: tuple[Host, Host]) -> None:
    records = [AssignmentRecord.of(host.settings().paths) for host in hosts]
    for number, record in enumerate(records):
        with record.locked():
            record.append(assigned(identity(number)))
    assert records[0].files() == records[1].files()
    records[0].require(records[1].files(), "a test")
    with pytest.raises(AssignmentError, match="restore the record from the earlier versions that the bucket"):
        records[0].require(["000009-0.parquet"], "a test")
    for record in records:
        found = record.read()
        assert found["image_id"].to_list() == [identity(0), identity(1)]
        assert found["round"].to_list() == [1, 2]


def identity(number: int) -> str:
    return f"{number:032x}"


def assigned(image_id: str) -> pl.DataFrame:
    return pl.DataFrame({"image_id": [image_id], "split": ["train"], "label": ["a"], "batch": ["first"]})


def test_decisions_and_production_settings_on_the_store_are_those_of_every_host(
    hosts: tuple[Host, Host],
) -> None:
    one, other = (host.settings().paths for host in hosts)
    assert production_settings(one).epochs == NARROW["epochs"]
    make_production(one, {"epochs": 7}, "a test")
    assert production_settings(other).epochs == 7
    one.label_decisions.write_text("image_id,decision,label,reason\n")
    assert version_of(other.label_decisions) == version_of(one.label_decisions) is not None
    assert read_decisions(other.label_decisions, CAPTCHA).is_empty()


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
def test_every_command_rejects_another_store_than_that_of_its_database_before_it_writes(
    hosts: tuple[Host, Host],
) -> None:
    one, other = hosts
    one.succeeded("status")
    mistaken = Host(
        other.home, other.environment | {"CAPTCHA_ARTIFACTS": f"{one.settings().paths.artifacts}-2"}
    )
    known, theirs = one.settings().paths, mistaken.settings().paths
    for command in (
        ["status"],
        ["batch", "list"],
        ["batch", "add", "first", "synthetic:40:1"],
        ["batch", "remove", "first"],
        ["model", "list"],
        ["model", "promote", "one"],
        ["serve"],
        ["backup", "create", str(mistaken.home / "backup.zip")],
    ):
        done = mistaken.run(*command)
        assert done.returncode == 1, command
        assert (
            f"belongs to the artifacts in {known.artifacts}, and CAPTCHA_ARTIFACTS is {theirs.artifacts}"
            in done.stderr
        )
    assert mistaken.run("batch", "add", "--help").returncode == 0
    assert not UPath(theirs.artifacts, use_listings_cache=False).exists()
    assert "no model yet" in other.succeeded("status")


@pytest.mark.slow
def test_a_backfill_whose_cluster_cannot_be_reached_says_how_to_go_on(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    one.succeeded("batch", "add", "first", "synthetic:40:1")
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    unreachable = Host(one.home, one.environment | {"CAPTCHA_COMPUTE": address})
    done = unreachable.run("backfill", "raw_batch", "image_table")
    assert done.returncode == 1
    assert re.fullmatch(
        f"Error: the Ray cluster at {address} cannot be reached: see that its head is up, and "
        r"CAPTCHA_COMPUTE; then: captcha-assets backfill --resume \w+\n",
        done.stderr,
    )
    said = one.succeeded("backfill", "--resume")
    assert "1 of 2 were materialized before" in said
    assert "1 materialized, 0 failed" in said


@pytest.mark.slow
def test_a_cluster_that_only_trains_materializes_no_batch_of_a_backfill(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    one.succeeded("batch", "add", "first", "synthetic:40:1")
    kubernetes = {"CAPTCHA_COMPUTE": "k8s://trainings", "CAPTCHA_COMPUTE_IMAGE": "training:1"}
    said = Host(one.home, one.environment | kubernetes).succeeded("backfill", "raw_batch", "image_table")
    assert "2 materialized, 0 failed" in said
    assert "k8s" not in said


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
    with daemon(one, tmp_path / "daemon.log"):
        wait_until(lambda: statuses(one) == ["FAILURE"], seconds=240)
    assert list(files_with_the_password(tmp_path)) == []
