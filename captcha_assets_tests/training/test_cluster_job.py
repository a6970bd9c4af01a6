"""The entry point of a Ray job, as a process without Ray: its files come from a store and return there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets.atomic_files import AnyPath
from captcha_assets.models import folder
from captcha_assets.training import staging
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import STATUS_DISK_FULL, STATUS_NO_STORE, STATUS_RUN_GONE
from captcha_assets.training.fit import Trained, train
from captcha_assets_tests.training.examples import job_on, write_batch
from captcha_assets_tests.training.processes import wait_until

#: Processes that train: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

TINY = TrainingSettings(epochs=2, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return write_batch(tmp_path_factory.mktemp("batch"), 200)


def started(target: AnyPath, node: Path, patience: float = 1_000) -> subprocess.Popen[str]:
    """Start the entry point on a node whose temporary files lie in a folder of its own."""
    node.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "captcha_assets.training.cluster_job",
            str(target),
            "--heartbeat",
            str(patience),
        ],
        env={**os.environ, "TMPDIR": str(node)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def staged(job: TrainingJob, store: AnyPath) -> AnyPath:
    target = staging.staged_folder(store, job)
    staging.stage(job, target)
    return target


@pytest.mark.parametrize("store", ["a folder", "an object store"])
def test_a_job_ends_in_the_model_of_a_training_without_ray_and_leaves_nothing_on_its_node(
    batch: tuple[list[Path], Path], bucket: UPath, tmp_path: Path, store: str
) -> None:
    job = job_on(batch, tmp_path / "work", TINY)
    target = staged(job, bucket / "jobs" if store == "an object store" else tmp_path / "store")
    with started(target, tmp_path / "node") as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert staging.fetch_model(target, tmp_path / "fetched")
    assert not (target / "checkpoints").exists()
    assert [path for path in (tmp_path / "node").rglob("*") if path.is_file()] == []

    here = train(job)
    assert isinstance(here, Trained)
    assert folder.verify(tmp_path / "fetched") == here.model_id
    weights = (tmp_path / "fetched" / "model.safetensors").read_bytes()
    assert weights == (job.output / "model.safetensors").read_bytes()


def test_a_job_that_is_stopped_keeps_its_last_checkpoint_in_the_store_and_resumes_from_it(
    batch: tuple[list[Path], Path], tmp_path: Path
) -> None:
    target = staged(job_on(batch, tmp_path / "work", TINY.replaced(epochs=2_000)), tmp_path / "store")
    checkpoint = tmp_path / "store" / target.name / "checkpoints" / "last.ckpt"
    process = started(target, tmp_path / "node")
    wait_until(checkpoint.exists, 300)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, output
    assert checkpoint.exists()
    assert [path for path in (tmp_path / "node").rglob("*") if path.is_file()] == []

    process = started(target, tmp_path / "node")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("resuming from ") for line in lines)
    process.terminate()
    process.communicate()


@pytest.mark.parametrize("store", ["a folder", "an object store"])
def test_a_job_trains_while_its_run_lives_and_stops_with_its_checkpoint_when_the_run_is_gone(
    batch: tuple[list[Path], Path], bucket: UPath, tmp_path: Path, store: str
) -> None:
    job = job_on(batch, tmp_path / "work", TINY.replaced(epochs=10_000))
    target = staged(job, bucket / "jobs" if store == "an object store" else tmp_path / "store")
    with started(target, tmp_path / "node", patience=10) as process:
        with staging.heartbeat(target, patience=10):
            wait_until((target / "checkpoints" / "last.ckpt").exists, 300)
            assert process.poll() is None
        output, _ = process.communicate()
    assert process.returncode == STATUS_RUN_GONE, output
    assert "stopped: the run that has submitted this job is gone; the same one resumes it" in output
    assert (target / "checkpoints" / "last.ckpt").exists()
    assert [path for path in (tmp_path / "node").rglob("*") if path.is_file()] == []


def test_the_reason_of_a_failure_names_the_store_not_the_disk_of_the_node(
    batch: tuple[list[Path], Path], tmp_path: Path
) -> None:
    target = staged(job_on(batch, tmp_path / "work", TINY.replaced(sample_size=1)), tmp_path / "store")
    with started(target, tmp_path / "node") as process:
        process.communicate()
    assert process.returncode == 1
    reason = staging.reason(target)
    assert reason is not None
    assert f"(of {target}/input/0/splits.parquet, sample_size 1): add batches, or raise sample_size" in reason


def test_a_full_store_is_an_exit_status_of_its_own_and_leaves_no_model(
    batch: tuple[list[Path], Path], small_disk: Path, tmp_path: Path
) -> None:
    large = TINY.replaced(channels=(16, 32, 64, 128))
    there = staged(job_on(batch, tmp_path / "work", large), tmp_path / "store")
    target = small_disk / "job"  # the input is too large for it
    target.mkdir()
    for path in (staging.JOB, staging.INPUT):
        (target / path).symlink_to(there / path)
    with started(target, tmp_path / "node") as process:
        output, _ = process.communicate()
    assert process.returncode == STATUS_DISK_FULL
    assert "no space left on the disk or in the quota: free some and run it again" in output
    assert not staging.has_model(target)


def test_a_store_that_the_node_does_not_reach_is_an_exit_status_of_its_own_and_nothing_is_created(
    tmp_path: Path,
) -> None:
    with started(tmp_path / "elsewhere", tmp_path / "node") as process:
        output, _ = process.communicate()
    assert process.returncode == STATUS_NO_STORE
    assert output == f"error: {tmp_path / 'elsewhere'} is not there on this node\n"
    assert not (tmp_path / "elsewhere").exists()
