"""Lightning's loggers: CSV always, MLflow and Weights & Biases where their variables are set.

Without `MLFLOW_TRACKING_URI`, `WANDB_API_KEY` or `WANDB_MODE` neither package is imported and nothing is
sent. A logger that fails is reported once and used no more: a training does not depend on it.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from captcha_assets.training.config import TrainingJob

Report = Callable[[str], None]

#: Name of the experiment, or project, where the user's variables name none.
PROJECT = "captcha-assets"


class _FinishingWandbLogger(WandbLogger):
    """Lightning's logger; it also ends the run with the training, not with the process."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)


def _mlflow(job: TrainingJob) -> Logger:
    # A server that is down is noticed in seconds; by default it is tried for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=_run_name(job),
        tracking_uri=os.environ["MLFLOW_TRACKING_URI"],
        tags=_tags(job),
    )


def _mlflow_errors() -> tuple[type[Exception], ...]:
    database = import_module("sqlalchemy.exc").SQLAlchemyError
    return (import_module("mlflow.exceptions").MlflowException, database, OSError, ValueError)


def _wandb(job: TrainingJob) -> Logger:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    return _FinishingWandbLogger(
        name=_run_name(job),
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        save_dir=os.environ.get("WANDB_DIR", "."),
        config=_tags(job),
        settings=import_module("wandb").Settings(init_timeout=20, silent=True, console="off"),
    )


def _wandb_errors() -> tuple[type[Exception], ...]:
    return (import_module("wandb.errors").Error, OSError, ValueError)


class OptionalLogger(Logger):
    """Passes everything on to another logger until that one fails, which it reports once.

    Args:
        package: the package of the other logger.
        create: returns the other logger.
        errors: returns the exceptions by which the package fails.
        report: called with the warning.
    """

    def __init__(
        self,
        package: str,
        create: Callable[[], Logger],
        errors: Callable[[], tuple[type[Exception], ...]],
        report: Report,
    ) -> None:
        super().__init__()
        self._package, self._errors, self._report = package, errors, report
        self._logger: Logger | None = None
        self._logger = self._try(create)

    @property
    def name(self) -> str:
        """The package's name."""
        return self._package

    @property
    def version(self) -> str:
        """Empty: the run's name is the package's own matter."""
        return ""

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        """Pass the settings on."""
        if logger := self._logger:
            self._try(partial(logger.log_hyperparams, params))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass the metrics of an epoch on."""
        if logger := self._logger:
            self._try(partial(logger.log_metrics, dict(metrics), step))

    def finalize(self, status: str) -> None:
        """End the run: with `success`, or `failed`."""
        if logger := self._logger:
            self._try(partial(logger.finalize, status))

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except ImportError as error:
            self._give_up(f"{error} (pip install 'captcha-assets[{self._package}]')")
        except self._errors() as error:
            self._give_up(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _give_up(self, why: str) -> None:
        self._report(f"warning: {self._package} gets no more metrics of this training: {why}")
        self._logger = None


def _run_name(job: TrainingJob) -> str:
    return str(job.provenance.get("trial") or f"seed {job.settings.seed}")


def _tags(job: TrainingJob) -> dict[str, str]:
    tags = {"splits_version": job.splits_version, "code_version": job.code_version}
    for name in ("run_id", "sweep", "trial", "batches"):
        if value := job.provenance.get(name):
            tags["dagster_run_id" if name == "run_id" else name] = (
                ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            )
    return tags


def loggers(job: TrainingJob, report: Report) -> list[Logger]:
    """Return the loggers of a training: CSV, and those that the environment switches on."""
    found: list[Logger] = [CSVLogger(job.checkpoints, name="metrics", flush_logs_every_n_steps=1)]
    if os.environ.get("MLFLOW_TRACKING_URI"):
        found.append(OptionalLogger("mlflow", partial(_mlflow, job), _mlflow_errors, report))
    mode = os.environ.get("WANDB_MODE")
    if mode != "disabled" and (mode or os.environ.get("WANDB_API_KEY")):
        found.append(OptionalLogger("wandb", partial(_wandb, job), _wandb_errors, report))
    return found
