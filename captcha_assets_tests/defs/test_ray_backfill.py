"""Backfills on a real Ray cluster: batches side by side, a lost node, Ctrl-C; PostgreSQL and an S3 server."""

import os
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest
from upath import UPath

from captcha_assets.atomic_files import AnyPath
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.cli.orchestration.ray_execution import CLUSTER_TAG
from captcha_assets.defs.compute import ray_jobs
from captcha_assets.defs.killed_runs import UNFINISHED
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.defs import ray_nodes
from captcha_assets_tests.defs.test_shared_profile import PASSWORD, Host
from captcha_assets_tests.serving.conftest import postgres
from captcha_assets_tests.training.processes import wait_until

__all__ = ["postgres"]

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

TABLES = ("image_table", "rejected_images")


def new_host(home: Path, database: str) -> Host:
    """Return a host with a new object store."""
    place = UPath(f"s3://bucket-{uuid.uuid4().hex}", use_listings_cache=False)
    place.fs.clear_instance_cache()
    place.fs.mkdir(place.path)
    environment = {
        "CAPTCHA_PROFILE": "shared",
        "CAPTCHA_DATABASE": database.replace("postgres:@", f"postgres:{PASSWORD}@"),
        "CAPTCHA_ARTIFACTS": f"{place}/captcha/artifacts".replace("//captcha", "/captcha"),
    }
    return Host(home, environment)


@pytest.fixture(scope="module")
def host(
    object_store: dict[str, str], postgres: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    """A host, and a cluster whose nodes reach its database and its store."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.items():
            patch.setenv(name, value)
        host = new_host(tmp_path_factory.mktemp("host") / "home", postgres())
        variables = {**object_store, "CAPTCHA_DATABASE": host.environment["CAPTCHA_DATABASE"]}
        with ray_nodes.ray_cluster(variables) as address:
            yield replace(host, environment={**host.environment, "CAPTCHA_COMPUTE": address})


def registered(host: Host, folder: Path, names: list[str]) -> None:
    """Register batches of different images: most of the last one, and some of the one before, are damaged."""
    folder.mkdir(exist_ok=True)
    damaged = {names[-1]: 60, names[-2]: 1}
    for seed, name in enumerate(names):
        archive = folder / f"{name}.zip"
        if not archive.exists():
            synthetic_batches.write_archive(archive, 40, seed=seed)
            with zipfile.ZipFile(archive, "a") as writer:
                for number in range(damaged.get(name, 0)):
                    writer.writestr(f"a_{1000 + number}.png", b"no image")
        host.succeeded("batch", "add", name, str(archive))


@contextmanager
def backfill(host: Host, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A backfill under way."""
    command = [str(Path(sys.executable).with_name("captcha-assets")), "backfill", *arguments]
    environment = {**os.environ, **host.environment, "CAPTCHA_HOME": str(host.home)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def steps_under_way() -> dict[str, psutil.Process]:
    """Return the processes that materialize a step on a node, by the batch."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "captcha_assets.cli.ray_step" in words:
            found[words[-1].partition('"partition": "')[2].partition('"')[0]] = process
    return found


def node_of(process: psutil.Process) -> psutil.Process:
    (raylet,) = [parent for parent in process.parents() if parent.name() == "raylet"]
    return raylet


@pytest.fixture
def instance(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """What is recorded in the database of the host."""
    host.enter(monkeypatch)
    with open_instance(host.settings()) as opened:
        yield opened


def under_way(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs on the cluster that have started and not ended."""
    runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    return [run for run in runs if CLUSTER_TAG in run.tags]


def wait_for_two(instance: dg.DagsterInstance, process: "subprocess.Popen[str]") -> None:
    """Wait until a backfill has two runs under way on the cluster, and leave the processor to them."""

    def happened() -> bool:
        time.sleep(1)
        return process.poll() is not None or len(under_way(instance)) == 2

    wait_until(happened, 300)
    assert process.poll() is None, process.communicate()


def versions(instance: dg.DagsterInstance, names: list[str]) -> dict[tuple[str, str], str]:
    """Return the data version of each table of each batch."""
    found = {}
    for table in TABLES:
        for name in names:
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(dg.AssetKey(table), asset_partitions=[name]), limit=1
            ).records
            event = records[0].asset_materialization if records else None
            found[table, name] = (event.tags or {})["dagster/data_version"] if event else "never"
    return found


def content(artifacts: AnyPath, names: list[str]) -> dict[str, bytes]:
    files = [f"{table}/{name}.parquet" for table in TABLES for name in names]
    return {file: (artifacts / file).read_bytes() for file in files}


def alive(host: Host) -> list[str]:
    """Return the Ray jobs that have not ended."""
    jobs = ray_jobs.connected(host.environment["CAPTCHA_COMPUTE"]).list_jobs()
    assert PASSWORD not in str(jobs)
    return [str(job.submission_id) for job in jobs if not job.status.is_terminal()]


@pytest.mark.slow
def test_what_ctrl_c_or_a_kill_stopped_is_ended_on_the_cluster_and_resumed(
    host: Host, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    names = ["first", "second"]
    for name in names:
        host.succeeded("batch", "add", name, "synthetic:40:1")
    host.succeeded("backfill", "raw_batch", "--batches", ",".join(names))
    with backfill(host, "image_table", "--batches", ",".join(names)) as process:
        wait_for_two(instance, process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Error: interrupted after 0 of 2; resume with: captcha-assets backfill --resume" in said
    assert alive(host) == []
    assert steps_under_way() == {}
    runs = instance.get_runs(dg.RunsFilter(tags={CLUSTER_TAG: host.environment["CAPTCHA_COMPUTE"]}))
    # Dagster records a step that was interrupted in the midst of its code as failed.
    assert len(runs) == 2
    assert {run.status.value for run in runs} <= {"CANCELED", "FAILURE"}

    with backfill(host, "--resume") as process:
        wait_for_two(instance, process)
        process.kill()
    said = host.succeeded("backfill", "--resume")
    assert "2 materialized, 0 failed" in said
    assert under_way(instance) == []
    assert alive(host) == []


@pytest.mark.slow
def test_a_node_that_reaches_another_database_is_one_clear_line(
    host: Host, postgres: Callable[[], str], tmp_path: Path
) -> None:
    other = new_host(tmp_path / "other", postgres())
    other = replace(other, environment={**host.environment, **other.environment})
    other.succeeded("batch", "add", "first", "synthetic:40:1")
    done = other.run("backfill", "raw_batch", "image_table")
    assert done.returncode == 1
    assert "1 materialized, 1 failed" in done.stdout
    assert "failed: the database of CAPTCHA_DATABASE belongs to the artifacts in " in done.stdout
    assert "(on a node of the Ray cluster)" in done.stdout


@pytest.mark.slow
def test_batches_spread_over_the_nodes_and_those_of_a_lost_node_end_as_on_one_machine(
    host: Host, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"batch-{number}" for number in range(4)]
    registered(host, tmp_path / "archives", names)
    with backfill(host, "raw_batch", "image_table", "--batches", ",".join(names)) as process:
        wait_for_two(instance, process)
        nodes = {batch: node_of(one) for batch, one in steps_under_way().items()}
        assert len({raylet.pid for raylet in nodes.values()}) == 2, "both steps are on one node"
        lost = under_way(instance)[0].tags["dagster/partition"]  # the run that began last
        nodes[lost].kill()
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert f"warning: image_table + rejected_images [{lost}]: attempt 1 of 3: the node of the Ray job" in said
    assert "image_table [batch-2]: 1 of 41 files rejected, see rejected_images" in said
    assert "7 materialized, 1 failed" in said
    assert under_way(instance) == []
    failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
    partitions = [run.tags["dagster/partition"] for run in failed]
    assert sorted(name for name in partitions if name in names) == sorted([lost, "batch-3"])

    local = Host(tmp_path / "local", dict.fromkeys(host.environment, ""))
    registered(local, tmp_path / "archives", names)
    done = local.run("backfill", "raw_batch", "image_table")
    assert reasons(done.stdout) == reasons(said)
    assert content(local.home / "artifacts", names) == content(host.settings().paths.artifact_root, names)
    recorded = versions(instance, names)
    local.enter(monkeypatch)
    with open_instance(Settings()) as other:
        assert versions(other, names) == recorded


def reasons(said: str) -> list[str]:
    """Return the lines at the end that say what failed and why."""
    return [line for line in said.splitlines() if line.startswith("  image_table + rejected_images [")]
