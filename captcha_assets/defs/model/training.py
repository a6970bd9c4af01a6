"""Starting the training process: the job it is told, and where it works."""

import dataclasses
import sys
from pathlib import Path

import dagster as dg

from captcha_assets.images.local import LocalTables
from captcha_assets.images.table import content_hash
from captcha_assets.settings import Settings
from captcha_assets.training.config import TrainingJob, TrainingSettings


def job_for(
    settings: Settings, data: LocalTables, training: TrainingSettings, code_version: str, run_id: str
) -> TrainingJob:
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
        code_version=code_version,
        settings=training,
        provenance={"run_id": run_id, "deliveries": list(data.batches)},
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
    path = job.output.parent / "job.json"
    job.save(path)
    command = [sys.executable, "-m", "captcha_assets.training", str(path)]
    pipes.run(context=context, command=command)
    return job.output
