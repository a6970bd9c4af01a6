"""MLflow and Weights & Biases: switched on by their own variables, told once an epoch, never in the way.

Without `MLFLOW_TRACKING_URI`, `WANDB_API_KEY` or `WANDB_MODE` nothing is imported and nothing is sent. A
tracker that fails is named once and left alone from then on: a training does not depend on it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from captcha_assets.training.config import TrainingJob
from captcha_assets.training.module import Classifier

Report = Callable[[str], None]

#: Name of the experiment, or project, where the user's variables name none.
PROJECT = "captcha-assets"


class _MLflow:
    def __init__(self) -> None:
        # A server that is down shall be noticed in seconds, where it would be tried for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._client = import_module("mlflow").MlflowClient()
        self._entities = import_module("mlflow.entities")

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        database = import_module("sqlalchemy.exc").SQLAlchemyError
        return (import_module("mlflow.exceptions").MlflowException, database, OSError, ValueError)

    def start(self, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else self._client.create_experiment(experiment)
        self._run = self._client.create_run(place, run_name=name, tags=dict(tags)).info.run_id
        params = [self._entities.Param(key, str(value)) for key, value in settings.items()]
        self._client.log_batch(self._run, params=params)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        entries = [self._entities.Metric(key, value, now, epoch) for key, value in metrics.items()]
        self._client.log_batch(self._run, metrics=entries)

    def end(self, *, finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class _WandB:
    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._wandb = import_module("wandb")

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        return (import_module("wandb.errors").Error, OSError, ValueError)

    def start(self, name: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            config={**settings, **tags},
            settings=self._wandb.Settings(init_timeout=20, silent=True, console="off"),
        )

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=epoch)

    def end(self, *, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


#: The trackers: the package, what makes one, and the variables that switch it on.
_KNOWN: dict[str, tuple[type[_MLflow] | type[_WandB], tuple[str, ...]]] = {
    "mlflow": (_MLflow, ("MLFLOW_TRACKING_URI",)),
    "wandb": (_WandB, ("WANDB_API_KEY", "WANDB_MODE")),
}


def _wanted() -> Iterator[str]:
    """Yield the trackers that the environment asks for."""
    for name, (_, variables) in _KNOWN.items():
        if any(os.environ.get(variable) for variable in variables):
            if name == "wandb" and os.environ.get("WANDB_MODE") == "disabled":
                continue
            yield name


class Tracking(Callback):
    """Tells one tracker what happens, from the process that leads."""

    def __init__(self, name: str, job: TrainingJob, report: Report) -> None:
        self._name, self._job, self._report = name, job, report
        self._tracker: _MLflow | _WandB | None = None
        self._told = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a run, with the settings and where the training comes from."""
        if trainer.is_global_zero:
            self._try(self._start)
            self._catch_up(pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Pass the epoch on."""
        self._catch_up(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the run."""
        assert isinstance(pl_module, Classifier)
        self._try(partial(self._end, len(pl_module.history) == trainer.max_epochs))

    def on_exception(self, *_: Any) -> None:
        """End the run of a training that failed."""
        self._try(partial(self._end, finished=False))

    def _start(self) -> None:
        make, _ = _KNOWN[self._name]
        tracker = make()
        self._tracker = tracker
        name = str(self._job.provenance.get("trial") or f"seed {self._job.settings.seed}")
        tracker.start(name, asdict(self._job.settings), _tags(self._job))

    def _log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        if self._tracker:
            self._tracker.log(epoch, metrics)

    def _end(self, finished: bool) -> None:
        if self._tracker:
            self._tracker.end(finished=finished)

    def _catch_up(self, pl_module: pl.LightningModule) -> None:
        """Pass on the epochs that were not told yet: after an interruption, those before it too."""
        assert isinstance(pl_module, Classifier)
        for entry in pl_module.history[self._told :]:
            metrics = {name: value for name, value in entry.items() if name != "epoch"}
            self._try(partial(self._log, entry["epoch"], metrics))
        self._told = len(pl_module.history)

    def _try(self, what: Callable[[], Any]) -> None:
        try:
            what()
        except ImportError as error:
            self._leave(f"{error} (pip install 'captcha-assets[{self._name}]')")
        except _KNOWN[self._name][0].errors() as error:
            self._leave(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _leave(self, why: str) -> None:
        self._report(f"warning: {self._name} is told no more of this training: {why}")
        self._tracker = None


def _tags(job: TrainingJob) -> dict[str, str]:
    told = {"splits_version": job.splits_version, "code_version": job.code_version}
    for name in ("run_id", "sweep", "trial", "deliveries"):
        if value := job.provenance.get(name):
            told["dagster_run_id" if name == "run_id" else name] = (
                ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            )
    return told


def trackers(job: TrainingJob, report: Report) -> list[Callback]:
    """Return a callback for every tracker that the environment asks for."""
    return [Tracking(name, job, report) for name in _wanted()]
