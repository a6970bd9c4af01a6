"""Trainings on a real Ray cluster: the same model, cancelled with the run, resumed after a kill."""

import os
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml
from upath import UPath

from captcha_assets.defs.compute import ray_jobs
from captcha_assets.defs.compute.local_compute import LocalCompute
from captcha_assets.defs.compute.ray_cluster import RayCluster
from captcha_assets.defs.compute.staged_compute import StagedCompute, num_gpus
from captcha_assets.defs.resources import compute_of
from captcha_assets.models import folder
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import RayClusterError, TrainingFailedError
from captcha_assets_tests import commands
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs import trainings
from captcha_assets_tests.defs.ray_nodes import free_ports, ray_cluster
from captcha_assets_tests.defs.test_training_run import config, placed  # noqa: F401
from captcha_assets_tests.defs.trainings import run
from captcha_assets_tests.training.examples import job_on, write_batch
from captcha_assets_tests.training.processes import wait_until

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: The nodes of a cluster are many processes: the tests share one.
pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(1800)]

TINY = TrainingSettings(epochs=3, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu")
#: Long enough to be interrupted.
LONG = TINY.replaced(epochs=30)


@pytest.fixture(scope="module")
def cluster(object_store: dict[str, str]) -> Iterator[str]:
    """The address of the job API of a cluster whose nodes reach the object store."""
    with ray_cluster(object_store) as address:
        yield address


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return write_batch(tmp_path_factory.mktemp("batch"), 200)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that no earlier job knows: pytest uses the folder of a test that has passed again."""
    return tmp_path / f"store-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def job(batch: tuple[list[Path], Path], tmp_path: Path) -> TrainingJob:
    return job_on(batch, tmp_path / "work", TINY)


def client_of(cluster: str) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(cluster)


def job_processes(store: Path) -> list[psutil.Process]:
    """Return the entry points of Ray jobs that work on a store."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "captcha_assets.training.cluster_job" in words and any(
            word.startswith(str(store)) for word in words
        ):
            found.append(process)
    return found


def checkpoints(store: Path) -> list[Path]:
    return list(store.glob("*/checkpoints/last.ckpt"))


def statuses(cluster: str, store: Path) -> list[str]:
    """Return the statuses of the Ray jobs that work on a store."""
    return [one.status.value for one in client_of(cluster).list_jobs() if str(store) in one.entrypoint]


@pytest.mark.slow
def test_the_asset_resnet18_trained_on_the_cluster_has_the_weights_of_this_machine(
    cluster: str,
    placed: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = placed.with_name("here")
    shutil.copytree(placed, here, symlinks=True)
    select = ("update", "--select", "key:resnet18", "--config")
    succeeded(here, *select, str(config(here, 2)))
    monkeypatch.setenv("CAPTCHA_COMPUTE", cluster)
    said = succeeded(placed, *select, str(config(placed, 2)))
    assert "epoch 2/2: loss " in said
    there, local = ([*home.glob("artifacts/models/*/model.safetensors")] for home in (placed, here))
    assert len(there) == len(local) == 1
    assert there[0].read_bytes() == local[0].read_bytes()
    assert list((placed / ".scratch" / "ray").iterdir()) == [], "what was staged was left behind"


@pytest.mark.slow
def test_a_job_whose_process_is_killed_and_whose_node_is_lost_ends_in_the_model_of_an_undisturbed_one(
    cluster: str, job: TrainingJob, batch: tuple[list[Path], Path], store: Path, tmp_path: Path
) -> None:
    job = job.model_copy(update={"settings": LONG})

    def disturb() -> None:
        wait_until(lambda: bool(checkpoints(store)), 300)
        killed = job_processes(store)
        for process in killed:
            process.kill()
        # The next process goes on from that checkpoint: a later one is written after it has begun.
        before = checkpoints(store)[0].stat().st_mtime_ns
        wait_until(lambda: any(one.stat().st_mtime_ns > before for one in checkpoints(store)), 300)
        (raylet,) = [one for one in job_processes(store)[0].parents() if one.name() == "raylet"]
        raylet.kill()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    said, log = run(StagedCompute(RayCluster(cluster), store), job)
    disturber.join()
    assert any("attempt 1 of 3: the training process on the Ray cluster was ended" in line for line in log)
    assert any("attempt 2 of 3: the node of the Ray job " in line for line in log)
    assert any(line.startswith("resuming from ") for line in log)
    assert any(line.startswith(f"epoch {LONG.epochs}/{LONG.epochs}: ") for line in log)

    here = job_on(batch, tmp_path / "here", LONG)
    run(LocalCompute(), here)
    assert said[-1]["model_id"] == folder.verify(job.output) == folder.verify(here.output)
    assert list(store.iterdir()) == []


@contextmanager
def running(
    cluster: str,
    job: TrainingJob,
    store: Path,
    until: Callable[[], bool],
    patience: float = 1_000,
    **variables: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """A run in a process of its own that has come so far."""
    file = store.with_name("job.json")
    job.save(file)
    environment = {
        **os.environ, "CAPTCHA_COMPUTE": cluster, "CAPTCHA_COMPUTE_STORE": str(store), **variables
    }  # fmt: skip
    with store.with_name("log").open("w") as log:
        command = [*trainings.COMMAND, str(file), str(patience)]
        process = subprocess.Popen(command, env=environment, stderr=log)
    try:
        wait_until(lambda: until() or process.poll() is not None, 300)
        assert process.poll() is None, store.with_name("log").read_text()[-3000:]
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_run_whose_job_waits_for_a_node_is_cancelled_at_once(
    cluster: str, job: TrainingJob, store: Path
) -> None:

    def waits() -> bool:
        return statuses(cluster, store) == ["PENDING"]

    with running(cluster, job, store, waits, CAPTCHA_COMPUTE_NUM_CPUS="2") as process:
        wait_until(lambda: "to complete..." in store.with_name("log").read_text(), 60)
        process.send_signal(signal.SIGINT)
        process.wait(120)
    log = store.with_name("log").read_text()
    assert "DagsterExecutionInterruptedError" in log.splitlines()[-1]
    assert not list(store.glob("*/input")), "the tables were left behind"


@pytest.mark.slow
def test_the_job_of_a_run_that_was_killed_is_stopped_by_the_next_run_which_resumes_and_is_cancelled(
    cluster: str, job: TrainingJob, store: Path, tmp_path: Path
) -> None:
    job = job.model_copy(update={"settings": TINY.replaced(epochs=10_000)})
    with running(cluster, job, store, lambda: bool(checkpoints(store))) as process:
        process.kill()
    (left,) = job_processes(store)
    with running(cluster, job, store, lambda: "resuming from " in (tmp_path / "log").read_text()) as process:
        assert not left.is_running()
        process.send_signal(signal.SIGINT)
        process.wait(120)
    assert "stopping the Ray job " in (tmp_path / "log").read_text()
    assert job_processes(store) == []
    assert statuses(cluster, store) == ["STOPPED", "STOPPED"]
    assert checkpoints(store)
    assert not list(store.glob("*/input")), "the tables were left behind"


@pytest.mark.slow
def test_the_job_of_a_run_that_was_killed_stops_by_itself_and_keeps_its_checkpoint(
    cluster: str, job: TrainingJob, store: Path
) -> None:
    job = job.model_copy(update={"settings": TINY.replaced(epochs=10_000)})
    with running(cluster, job, store, lambda: bool(checkpoints(store)), patience=10) as process:
        process.kill()
    wait_until(lambda: statuses(cluster, store) == ["FAILED"], 120)
    assert job_processes(store) == []
    assert checkpoints(store)


@pytest.mark.slow
def test_a_training_that_fails_on_the_cluster_gives_its_own_message(
    cluster: str, job: TrainingJob, store: Path
) -> None:
    job = job.model_copy(update={"settings": TINY.replaced(sample_size=1)})
    why = r"^the \w+ split has 0 images .*: add batches, or raise sample_size"
    with pytest.raises(TrainingFailedError, match=why) as caught:
        run(StagedCompute(RayCluster(cluster), store), job)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_store_that_no_node_reaches_is_one_clear_line(
    cluster: str, job: TrainingJob, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captcha_assets.training.staging.stage", lambda *_: None)
    with pytest.raises(
        RayClusterError, match=r"do not reach .*: set CAPTCHA_COMPUTE_STORE to a folder or an"
    ):
        run(StagedCompute(RayCluster(cluster), store), job)


@pytest.mark.slow
def test_a_trial_below_its_pruning_threshold_reports_its_epochs_and_leaves_nothing_in_the_store(
    cluster: str, job: TrainingJob, store: Path
) -> None:
    trial = job.model_copy(update={"pruning_thresholds": {1: 1.0}, "provenance": {"trial": "s1-07"}})
    said, log = run(StagedCompute(RayCluster(cluster), store), trial)
    assert said[-1]["stopped"]
    assert [entry["epoch"] for entry in said[-1]["history"]] == [1]
    assert any("s1-07-" in line for line in log), "the Ray job does not bear the name of the trial"
    assert not job.output.exists()
    assert list(store.iterdir()) == []


@pytest.mark.slow
def test_the_trials_of_a_sweep_are_ray_jobs_and_a_failed_one_has_its_own_reason(
    cluster: str,
    placed: Path,  # noqa: F811
) -> None:
    fixed = {"epochs": 3, "channels": [4, 8, 8, 8], "batch_size": 32, "weight_decay": 10.0}
    grid = {"fixed": {**fixed, "sample_size": None}, "grid": {"learning_rate": [0.01, 100.0]}}
    (placed / "grid.yaml").write_text(yaml.safe_dump(grid))
    done = commands.run(placed, "sweep", "run", str(placed / "grid.yaml"), CAPTCHA_COMPUTE=cluster)
    assert "1 trained, 1 failed" in done.stdout, done.stdout + done.stderr
    assert "the loss is NaN or infinite" in done.stdout
    assert sorted(statuses(cluster, placed)) == ["FAILED", "SUCCEEDED"]


@pytest.mark.slow
def test_several_devices_of_a_node_train_together_with_files_that_come_and_go_over_an_object_store(
    cluster: str, job: TrainingJob, bucket: UPath
) -> None:
    two = job.model_copy(update={"settings": TINY.replaced(devices=2, epochs=1)})
    said, _ = run(StagedCompute(RayCluster(cluster), bucket / "ray"), two)
    assert said[-1]["model_id"] == folder.verify(job.output)
    assert list((bucket / "ray").rglob("*")) == []


def test_a_cluster_that_cannot_be_reached_is_one_clear_line(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path))
    monkeypatch.setenv("CAPTCHA_COMPUTE", f"http://127.0.0.1:{port}")
    with pytest.raises(RayClusterError) as caught:
        run(compute_of(load_settings()), job)
    assert str(caught.value) == (
        f"the Ray cluster at http://127.0.0.1:{port} cannot be reached: see that its head is up, and "
        "CAPTCHA_COMPUTE"
    )


@pytest.mark.slow
def test_nothing_is_told_of_what_a_job_uploads(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.txt").write_text(uuid.uuid4().hex)  # the cluster does not have it yet
    client = ray_jobs.connected(cluster)
    name = client.submit_job(entrypoint="true", runtime_env={"working_dir": str(tmp_path)})
    ray_jobs.stop(client, name)
    assert capsys.readouterr() == ("", "")


def test_a_server_that_is_no_ray_cluster_is_called_so() -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RayClusterError, match="is not Ray's job API: give the address of"):
            ray_jobs.connected(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


@pytest.mark.parametrize(
    ("accelerator", "devices", "limit", "reserved"),
    [("cpu", 2, 4, 0), ("gpu", 2, 0, 2), ("auto", 1, 0, 0), ("auto", 1, 4, 1), ("auto", 4, 4, 4)],
)
def test_a_training_reserves_a_gpu_for_each_device_where_it_trains_on_gpus(
    accelerator: str, devices: int, limit: int, reserved: int
) -> None:
    assert num_gpus(TINY.replaced(accelerator=accelerator, devices=devices), limit) == reserved
