"""The training process: interrupted, killed, orphaned or misled, it keeps its promises."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from captcha_assets.models import folder
from captcha_assets.training.__main__ import STATUS_DISK_FULL
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets_tests.forkserver import CONTEXT
from captcha_assets_tests.training.examples import job_on, write_batch
from captcha_assets_tests.training.processes import (
    finish,
    run_as_child,
    run_as_rank,
    run_with,
    run_with_little_memory,
    start,
    wait_until,
)

SETTINGS = TrainingSettings(epochs=4, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu")

#: What is compared with the undisturbed training, which is done once.
SHARED = pytest.mark.xdist_group("undisturbed")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return write_batch(tmp_path_factory.mktemp("batch"), 200)


@pytest.fixture(scope="module")
def job_in(batch):
    def make(place: Path, **settings) -> Path:
        job = job_on(batch, place, SETTINGS.replaced(**settings), provenance={"run_id": "r1"})
        job.save(place / "job.json")
        return place / "job.json"

    return make


@pytest.fixture(scope="module")
def undisturbed(job_in, tmp_path_factory):
    place = tmp_path_factory.mktemp("undisturbed")
    assert finish(job_in(place), place / "log") == 0, (place / "log").read_text()
    return place


def content(place: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (place / "model").iterdir()}


def epochs_done(place: Path) -> int:
    """Epochs that were reported: the progress line comes just before the checkpoint is written."""
    log = place / "log"
    return log.read_text().count("validation accuracy") if log.exists() else 0


@SHARED
def test_the_same_job_gives_the_same_folder_to_the_byte(undisturbed, job_in, tmp_path):
    assert finish(job_in(tmp_path), tmp_path / "log") == 0
    assert content(tmp_path) == content(undisturbed)


@SHARED
def test_another_seed_gives_another_model(undisturbed, job_in, tmp_path):
    assert finish(job_in(tmp_path, seed=1), tmp_path / "log") == 0
    assert content(tmp_path)["model.safetensors"] != content(undisturbed)["model.safetensors"]


@SHARED
@pytest.mark.slow
def test_a_training_killed_in_every_epoch_ends_with_the_same_folder_as_an_undisturbed_one(
    undisturbed, job_in, tmp_path
):
    job, log, last = job_in(tmp_path), tmp_path / "log", tmp_path / "checkpoints" / "last.ckpt"
    for _ in range(SETTINGS.epochs - 1):
        seen = last.stat().st_ino if last.exists() else None
        process = start(job, log)
        wait_until(lambda seen=seen: last.exists() and last.stat().st_ino != seen)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "model").exists()
    assert finish(job, log) == 0
    assert epochs_done(tmp_path) < 2 * SETTINGS.epochs, "it started from the first epoch each time"
    assert content(tmp_path) == content(undisturbed)


@SHARED
def test_success_leaves_a_model_and_no_checkpoints(undisturbed):
    assert sorted(path.name for path in undisturbed.iterdir()) == ["job.json", "log", "model"]
    metrics, history = folder.read_metrics(undisturbed / "model"), folder.read_history(undisturbed / "model")
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert metrics["validation_accuracy"] == history[-1]["validation_accuracy"]
    config = folder.read_config(undisturbed / "model")
    assert (config.splits_version, config.code_version, config.seed) == ("v1", "c1", 0)
    job = TrainingJob.load(undisturbed / "job.json")
    expected = {"run_id": "r1", "device": "cpu", "threads": 1, "job": job.fingerprint}
    assert config.provenance == expected
    assert config.temperature == metrics["temperature"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_ends_at_once_and_keeps_its_last_checkpoint(job_in, tmp_path, number, status):
    process = start(job_in(tmp_path, epochs=10_000), tmp_path / "log")
    last = tmp_path / "checkpoints" / "last.ckpt"
    wait_until(last.exists)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status
    assert last.exists()
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "log").read_text().splitlines()[-1].startswith("stopped; the last checkpoint is kept")


@pytest.mark.slow
def test_a_training_stopped_in_its_first_epoch_says_that_no_checkpoint_is_kept(job_in, tmp_path):
    # This first epoch never ends.
    job = job_in(tmp_path, batch_size=1, channels=(256, 256, 512, 512))
    process = start(job, tmp_path / "log")
    wait_until((tmp_path / "checkpoints" / "job").exists)
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    assert "no epoch was finished" in (tmp_path / "log").read_text().splitlines()[-1]
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 1, "batch_size": 28}, 5),  # the warm-up of 0.2 is one step
        ({"epochs": 1, "batch_size": 65_536}, 1),
        ({"epochs": 2, "batch_size": 65_536, "warmup": 0.5}, 2),
        ({"epochs": 1, "batch_size": 65_536, "warmup": 0.0}, 1),
        ({"epochs": 1, "batch_size": 14, "warmup": 0.9}, 10),
        ({"epochs": 1, "batch_size": 1, "sample_size": 50}, None),
        ({"epochs": 2, "sample_size": 45}, None),
    ],
)
def test_a_training_of_very_few_steps_or_images_makes_a_model(job_in, tmp_path, settings, steps):
    job = job_in(tmp_path, **settings)
    assert finish(job, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    metrics = folder.read_metrics(tmp_path / "model")
    chosen = TrainingJob.load(job).settings
    assert metrics["epochs"] == chosen.epochs
    if steps:
        size = min(chosen.batch_size, metrics["train_images"])
        assert metrics["train_images"] // size * chosen.epochs == steps


@pytest.mark.slow
def test_of_three_processes_one_discards_the_old_checkpoint_and_the_others_wait(job_in, tmp_path):
    job = job_in(tmp_path, devices=3, batch_size=33, epochs=2)
    stale = tmp_path / "checkpoints"
    stale.mkdir()
    (stale / "job").write_text("another job")
    (stale / "last.ckpt").write_bytes(b"of another job")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        CONTEXT.Process(target=run_as_rank, args=(rank, port, job, tmp_path / "log")) for rank in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0], (tmp_path / "log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json", "log", "model"]
    assert folder.read_metrics(tmp_path / "model")["epochs"] == 2


@pytest.mark.slow
def test_a_training_whose_parent_is_killed_does_not_live_on(job_in, tmp_path):
    parent = start(job_in(tmp_path, epochs=10_000), tmp_path / "log", run_as_child)
    wait_until((tmp_path / "checkpoints" / "last.ckpt").exists)
    child = int((tmp_path / "log").read_text().split()[0])
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    wait_until(lambda: not Path(f"/proc/{child}").exists())


@SHARED
@pytest.mark.slow
def test_checkpoints_of_another_job_are_not_taken_up(undisturbed, job_in, tmp_path):
    process = start(job_in(tmp_path, seed=7), tmp_path / "log")
    wait_until((tmp_path / "checkpoints" / "last.ckpt").exists)
    process.kill()
    process.join()
    assert finish(job_in(tmp_path), tmp_path / "log") == 0
    assert "last.ckpt is of another job: starting from the first epoch" in (tmp_path / "log").read_text()
    assert content(tmp_path) == content(undisturbed)


@SHARED
def test_no_line_names_the_folder_of_the_run_from_which_the_model_is_moved(undisturbed):
    last = (undisturbed / "log").read_text().splitlines()[-1]
    assert "validation accuracy" in last
    assert str(undisturbed) not in (undisturbed / "log").read_text()


@SHARED
def test_a_job_that_is_done_is_not_done_again(undisturbed, tmp_path):
    before = (undisturbed / "model" / "manifest.json").stat().st_ino
    assert finish(undisturbed / "job.json", tmp_path / "log") == 0
    assert "the model of this very job is there already" in (tmp_path / "log").read_text()
    assert (undisturbed / "model" / "manifest.json").stat().st_ino == before


def test_a_training_below_its_pruning_threshold_stops_cleanly_and_leaves_no_model(job_in, tmp_path):
    path = job_in(tmp_path)
    TrainingJob.load(path).model_copy(update={"pruning_thresholds": {1: 0.0, 2: 0.99}}).save(path)
    assert finish(path, tmp_path / "log") == 0
    assert "stopped after epoch 2: " in (tmp_path / "log").read_text()
    assert epochs_done(tmp_path) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["job.json", "log"]


@SHARED
@pytest.mark.slow
def test_pruning_thresholds_that_are_reached_change_nothing(undisturbed, job_in, tmp_path):
    path = job_in(tmp_path)
    TrainingJob.load(path).model_copy(update={"pruning_thresholds": {1: 0.001, 3: 0.001}}).save(path)
    assert finish(path, tmp_path / "log") == 0
    assert content(tmp_path) == content(undisturbed)


def test_why_a_training_failed_stands_beside_its_job_until_the_next_try(job_in, tmp_path):
    path = job_in(tmp_path, sample_size=1)
    assert finish(path, tmp_path / "log") == 1
    assert "raise sample_size" in (tmp_path / "job.error").read_text()
    assert finish(job_in(tmp_path), tmp_path / "log") == 0
    assert not (tmp_path / "job.error").exists()


def test_a_loss_that_is_nan_or_infinite_ends_with_advice(job_in, tmp_path):
    job = job_in(tmp_path, learning_rate=100.0, weight_decay=10.0, epochs=8)
    assert finish(job, tmp_path / "log") == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("error: the loss is NaN or infinite in epoch")
    assert "lower learning_rate (now 100.0)" in last
    assert not (tmp_path / "model").exists()


def test_too_little_memory_ends_with_advice(job_in, tmp_path):
    job = job_in(tmp_path, channels=(512, 512, 1024, 1024))
    assert finish(job, tmp_path / "log", run_with_little_memory) == 1
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("error: out of memory with batch_size=32: halve it")
    assert not (tmp_path / "model").exists()


def test_a_full_disk_ends_with_advice(job_in, small_disk, tmp_path):
    assert finish(job_in(small_disk, channels=(16, 32, 64, 128)), tmp_path / "log") == STATUS_DISK_FULL
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("error: ")
    assert "no space left on the disk or in the quota: free some and run it again" in last


def test_missing_devices_end_with_advice(job_in, tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has the device")
    assert finish(job_in(tmp_path, accelerator="gpu"), tmp_path / "log") == 1
    assert "accelerator is gpu, but this machine has none" in (tmp_path / "log").read_text()


def test_a_job_that_cannot_be_used_is_rejected_in_one_line(job_in, tmp_path):
    job = job_in(tmp_path)
    value = json.loads(job.read_text())
    job.write_text(json.dumps(value | {"tables": [str(tmp_path / "none.parquet")]}))
    command = [sys.executable, "-m", "captcha_assets.training", str(job)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "none.parquet, which does not exist" in ended.stderr


@SHARED
def test_progress_and_the_result_reach_dagster(undisturbed, job_in, tmp_path):
    messages = tmp_path / "messages"
    context = {
        "asset_keys": ["resnet18"],
        "code_version_by_asset_key": {},
        "provenance_by_asset_key": {},
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "r1",
        "job_name": None,
        "retry_number": 0,
        "extras": {},
    }
    (tmp_path / "context").write_text(json.dumps(context))
    environment = {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({"path": str(tmp_path / "context")}),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({"path": str(messages)}),
    }
    ended = finish(job_in(tmp_path), tmp_path / "log", partial(run_with, environment))
    assert ended == 0, (tmp_path / "log").read_text()
    sent = [json.loads(line) for line in messages.read_text().splitlines()]
    logged = [entry["params"]["message"] for entry in sent if entry["method"] == "log"]
    assert sum("validation accuracy" in line and line.startswith("epoch ") for line in logged) == 4
    results = [entry["params"]["payload"] for entry in sent if entry["method"] == "report_custom_message"]
    assert results == [
        {
            "model_id": folder.model_id(undisturbed / "model"),
            "metrics": folder.read_metrics(undisturbed / "model"),
            "folder": str(tmp_path / "model"),
        }
    ]
