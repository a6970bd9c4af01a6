"""The resource `compute` runs trainings, over Dagster Pipes: here in a process of this machine."""

import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import dagster as dg

from captcha_assets.defs.dagster_internals import DagsterPipesExecutionError
from captcha_assets.training.config import TrainingJob
from captcha_assets.training.failures import process_error

#: A training process; the path of its job follows.
COMMAND: Iterable[str] = (sys.executable, "-m", "captcha_assets.training")


class Compute(Protocol):
    """Runs trainings."""

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train in a process of its own; its progress goes to the run's log.

        The model is then in `job.output`; there is none where the trial was pruned.
        The same job, started again, resumes an interrupted training from its checkpoint.

        Returns:
            The report of the process at its end.

        Raises:
            TrainingFailedError: with the message of the training process.
            RayClusterError, ClusterError: the cluster failed, not the training.
            StagingError: the model came damaged from the cluster.
            TrainingStoppedError: the process was ended from outside.
        """
        ...


def without_preview_warning() -> None:
    """Silence a warning of Dagster's own Pipes clients."""
    # They call it: there is nothing that a user could act on. While definitions are loaded,
    # filters do not last.
    warnings.filterwarnings("ignore", ".*PipesMessageReader.expected_writer_count", dg.PreviewWarning)


@dataclass(frozen=True)
class LocalCompute:
    """Trains on this machine."""

    pipes: dg.PipesSubprocessClient = field(
        default_factory=lambda: dg.PipesSubprocessClient(
            forward_termination=True, termination_timeout_seconds=20
        )
    )

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train on this machine; see `Compute`."""
        path = job.output.parent / "job.json"
        job.save(path)
        without_preview_warning()
        try:
            ended = self.pipes.run(context=context, command=[*COMMAND, str(path)])
        except DagsterPipesExecutionError as error:
            # Dagster's exception has the exit status in its message only.
            status = int(str(error).rpartition(" ")[2])
        else:
            return [dict(message) for message in ended.get_custom_messages()]
        # Outside of the block, so that Dagster's own exception, which says less, is not shown beneath.
        why = path.with_suffix(".error")
        raise process_error(status, "", why.read_text().strip() if why.exists() else None)
