"""Runs a training by a compute resource, as an asset does: in this process, or in one that can be killed.

    python -m captcha_assets_tests.defs.trainings JOB.json [SECONDS]

takes the compute resource of the environment; a job of a Ray cluster waits so long for a heartbeat.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from captcha_assets.defs.compute.local_compute import Compute
from captcha_assets.defs.resources import compute_of
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingJob

#: The command of a process that trains; the job file follows.
COMMAND = (sys.executable, "-m", "captcha_assets_tests.defs.trainings")


def run(compute: Compute, job: TrainingJob) -> tuple[list[dict[str, Any]], list[str]]:
    """Train as an asset does; return what the training reported and the lines of the run's log."""
    said: list[dict[str, Any]] = []

    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        said.extend(compute.run(context, job))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([trained], instance=instance, raise_on_error=True)
        return said, [entry.user_message for entry in instance.all_logs(result.run_id)]


def main(file: str, patience: str | None = None) -> None:
    """Train by the compute resource of the environment."""
    compute: Any = compute_of(load_settings())
    if patience is not None:
        patient = dataclasses.replace(compute.cluster, patience=float(patience))
        compute = dataclasses.replace(compute, cluster=patient)
    run(compute, TrainingJob.load(Path(file)))


if __name__ == "__main__":
    main(*sys.argv[1:])
