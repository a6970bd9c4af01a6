"""Starting the training process: the job it is told, and where it works."""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError

from captcha_assets.images.local import LocalTables
from captcha_assets.images.table import content_hash
from captcha_assets.models import provenance
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production import production_version
from captcha_assets.training.config import TrainingJob, TrainingSettings


class TrainingFailedError(RuntimeError):
    """A training that came to no end; the message says why."""


#: Raise it with a change of the training that should train again.
TRAINING_CODE = "1"


def configuration_version(settings: Settings) -> str:
    """The version of the production settings: what an automated training is told."""
    return production_version(settings)


def job_for(settings: Settings, data: LocalTables, training: TrainingSettings, run_id: str) -> TrainingJob:
    """The job of one training.

    Its folder is named after what decides the weights, so that the same training, started again after
    an interruption, finds its checkpoints, and another one does not.
    """
    job = TrainingJob(
        tables=data.tables,
        splits=data.splits,
        splits_version=content_hash(settings.splits),
        output=Path(),
        checkpoints=Path(),
        code_version=TRAINING_CODE,
        settings=training,
        provenance={
            "run_id": run_id,
            "deliveries": list(data.batches),
            "configuration": configuration_version(settings),
            **provenance.recorded(settings, data.batches),
        },
    )
    work = settings.scratch / "training" / job.fingerprint[:16]
    return dataclasses.replace(job, output=work / "model", checkpoints=work / "checkpoints")


def run_training(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, job: TrainingJob
) -> Path:
    """Train in a process of its own over Dagster Pipes; its progress goes to the run's log.

    Returns:
        The finished model folder.
    """
    start_training(context, pipes, job)
    return job.output


def start_training(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, job: TrainingJob
) -> list[dict[str, Any]]:
    """Run the training process to its end and return what it reports then.

    Raises:
        TrainingFailedError: in the words of the training process.
        DagsterPipesExecutionError: the process was stopped from outside.
    """
    path = job.output.parent / "job.json"
    job.save(path)
    command = [sys.executable, "-m", "captcha_assets.training", str(path)]
    # Dagster's own Pipes client calls it: nothing that a user could act on. While definitions are loaded,
    # filters do not last.
    warnings.filterwarnings("ignore", ".*PipesMessageReader.expected_writer_count", dg.PreviewWarning)
    try:
        ended = pipes.run(context=context, command=command)
    except DagsterPipesExecutionError as error:
        why = path.with_suffix(".error")
        if why.exists():
            raise TrainingFailedError(why.read_text().strip()) from error
        raise
    return [dict(message) for message in ended.get_custom_messages()]
