"""MLflow and Weights & Biases get the metrics when their variables are set, and can do no harm."""

import csv
import socket
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger

from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.fit import fit, setup, train
from captcha_assets.training.loggers import loggers
from captcha_assets_tests.training.examples import job_on, write_batch

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingJob:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return job_on(
        write_batch(tmp_path / "batch", 200),
        tmp_path,
        TrainingSettings(epochs=2, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu"),
        provenance={"run_id": "r1", "trial": "t-001", "batches": ["one", "two"]},
    )


@pytest.mark.slow
def test_mlflow_holds_the_settings_every_epoch_and_where_the_training_comes_from(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    trained = train(job, lambda _: None)
    client = mlflow.MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("captcha-assets").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "t-001")
    assert run.data.params["epochs"] == "2"
    assert run.data.params["channels"] == "(4, 8, 8, 8)"
    assert run.data.tags["splits_version"] == "v1"
    assert run.data.tags["code_version"] == "c1"
    assert run.data.tags["dagster_run_id"] == "r1"
    assert run.data.tags["batches"] == "one, two"
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert [entry.step for entry in history] == [1, 2]
    assert history[-1].value == pytest.approx(trained.metrics["validation_accuracy"])


@pytest.mark.slow
def test_weights_and_biases_works_without_a_network(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    reported: list[str] = []
    train(job, reported.append)
    assert [line for line in reported if "warning" in line] == []
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    content = record.read_bytes()
    assert b"validation_accuracy" in content
    assert b"dagster_run_id" in content


@pytest.fixture
def dead_server() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_logger_whose_server_is_down_costs_one_warning(
    job: TrainingJob, dead_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_server)
    reported: list[str] = []
    assert train(job, reported.append) is not None
    assert (
        sum(line.startswith("warning: mlflow gets no more metrics of this training") for line in reported)
        == 1
    )


def test_a_logger_that_is_not_installed_says_how_to_get_it(
    job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    reported: list[str] = []
    assert train(job, reported.append) is not None
    (warning,) = [line for line in reported if "warning" in line]
    assert "pip install 'captcha-assets[wandb]'" in warning


def test_without_their_variables_the_csv_logger_is_the_only_one(job: TrainingJob) -> None:
    (only,) = loggers(job, print)
    assert isinstance(only, CSVLogger)


def test_what_is_switched_off_is_off(job: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (only,) = loggers(job, print)
    assert isinstance(only, CSVLogger)


def test_the_csv_logger_writes_a_row_an_epoch_beside_the_checkpoint(job: TrainingJob) -> None:
    fit(setup(job, lambda _: None))
    (path,) = job.checkpoints.glob("metrics/*/metrics.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(float(row["validation_loss"]) > 0 for row in rows)


def test_a_resumed_training_logs_the_epochs_before_it_again(job: TrainingJob) -> None:
    fit(setup(job.model_copy(update={"pruning_thresholds": {1: 1.1}}), lambda _: None))  # stops after one
    fit(setup(job, lambda _: None))
    steps = []
    for path in sorted(job.checkpoints.glob("metrics/*/metrics.csv")):
        with path.open() as file:
            steps.append([row["step"] for row in csv.DictReader(file)])
    assert steps == [["1"], ["1", "2"]]
