"""Runs a training by a compute resource, as an asset does."""

from typing import Any

import dagster as dg

from captcha_assets.defs.compute import Compute
from captcha_assets.training.config import TrainingJob


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
