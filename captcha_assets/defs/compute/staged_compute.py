"""The resource `compute` on a cluster: a training is a job of it, and its files go through a store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg

from captcha_assets.atomic_files import AnyPath, remove
from captcha_assets.training import staging
from captcha_assets.training.__main__ import is_done
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import TrainingStoppedError

#: How often a training is submitted whose process, container or node was lost.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Resources:
    """What a training in a container asks a cluster for."""

    image: str
    """Of `dockerfiles/training.Dockerfile`, of the version of this code."""
    num_cpus: int = 1
    """What it reserves of a node, and how many threads it has."""
    num_gpus: int = 0
    """The most GPUs that a training with `accelerator` auto reserves."""
    service_account: str | None = None
    """Whose rights it has; None for the cluster's default."""

    def gpus_for(self, training: TrainingSettings) -> int:
        """Return how many GPUs a training reserves."""
        return num_gpus(training, self.num_gpus)

    def threads_for(self, training: TrainingSettings) -> int:
        """Return how many threads each process of a training has."""
        return threads(training, self.num_cpus)


def num_gpus(training: TrainingSettings, limit: int) -> int:
    """Return how many GPUs a training reserves.

    Args:
        training: with `accelerator` gpu it reserves one for each of its devices, with cpu none.
        limit: the most that it may reserve with `accelerator` auto.
    """
    return {"cpu": 0, "gpu": training.devices, "auto": min(training.devices, limit)}[training.accelerator]


def threads(training: TrainingSettings, num_cpus: int) -> int:
    """Return how many threads each process of a training has."""
    return max(1, num_cpus // training.devices)


class Cluster(Protocol):
    """Runs jobs: of Ray, as containers of Kubernetes, as custom jobs of Vertex AI."""

    def stop_earlier(self, context: dg.AssetExecutionContext, folder: AnyPath) -> None:
        """Stop the job that a killed run of the same training left behind, and wait until it has ended.

        Raises:
            ClusterError: the cluster cannot be reached.
        """
        ...

    def request(self, training: TrainingSettings, folder: AnyPath) -> Mapping[str, Any]:
        """Return what is sent to the cluster to train a staged job, but for the variables of Pipes."""
        ...

    def submit(
        self, context: dg.AssetExecutionContext, training: TrainingSettings, folder: AnyPath
    ) -> list[dict[str, Any]]:
        """Run one job to its end and return its messages; it has ended however this returns.

        Raises:
            TrainingStoppedError: its container or node was lost.
            TrainingFailedError, ClusterError: see `Compute`.
        """
        ...


@dataclass(frozen=True)
class StagedCompute:
    """Trains on a cluster; the files of the training go through a store that both reach."""

    cluster: Cluster
    store: AnyPath

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train on the cluster; see `Compute`."""
        # The caller removes this folder with the model.
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if is_done(job):
            context.log.info("the model of this very job is there already")
            return []
        folder = staging.staged_folder(self.store, job)
        self.cluster.stop_earlier(context, folder)
        messages = self._trained(context, job, folder)
        if not any(one.get("stopped") for one in messages):
            staging.fetch_model(folder, job.output)
        remove(folder)
        return messages

    def _trained(
        self, context: dg.AssetExecutionContext, job: TrainingJob, folder: AnyPath
    ) -> list[dict[str, Any]]:
        """Train, unless the model is in the store already, and return the messages of the process."""
        if staging.has_model(folder):
            context.log.info(f"the model of this very job lies in {folder} already")
            return []
        try:
            staging.stage(job, folder)
            for attempt in range(1, _ATTEMPTS):
                try:
                    return self.cluster.submit(context, job.settings, folder)
                except TrainingStoppedError as error:
                    context.log.warning(f"attempt {attempt} of {_ATTEMPTS}: {error}")
            return self.cluster.submit(context, job.settings, folder)
        finally:
            staging.remove_input(folder)


def command(folder: AnyPath, *more: str) -> list[str]:
    """Return the command of a container that trains the staged job of a folder."""
    return ["python", "-m", "captcha_assets.training.cluster_job", str(folder), *more]
