"""Trainings on a Ray cluster: each is a Ray job, submitted over Dagster Pipes."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from captcha_assets.atomic_files import AnyPath
from captcha_assets.defs.compute import ray_jobs
from captcha_assets.defs.compute.local_compute import without_preview_warning
from captcha_assets.defs.compute.ray_messages import job_messages
from captcha_assets.defs.compute.staged_compute import num_gpus, threads
from captcha_assets.evaluation.formatting import counted
from captcha_assets.training import staging
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.failures import (
    STATUS_NO_STORE,
    RayClusterError,
    TrainingStoppedError,
    process_error,
)

if TYPE_CHECKING:
    from dagster_ray.core.pipes import SubmitJobParams
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Key of a Ray job's metadata: the folder of the training that it runs.
_FOLDER = "captcha_assets/folder"


@dataclass(frozen=True)
class RayCluster:
    """Trains as a job of a Ray cluster."""

    address: str
    """Of Ray's job API, `http://head:8265`."""
    num_cpus: int = 1
    """What a training reserves of a node, and how many threads it has."""
    num_gpus: int = 0
    """The most GPUs that a training with `accelerator` auto reserves."""
    patience: float = 120
    """Seconds after which a job whose run was killed stops: there were no heartbeats for so long."""

    def stop_earlier(self, context: dg.AssetExecutionContext, folder: AnyPath) -> None:
        """Stop the Ray job that a killed run of the same training left behind; see `Cluster`."""
        client = ray_jobs.connected(self.address)
        with ray_jobs.cluster_errors(self.address):
            jobs = client.list_jobs()
        for one in jobs:
            if (one.metadata or {}).get(_FOLDER) == str(folder) and not one.status.is_terminal():
                context.log.warning(f"stopping the Ray job {one.submission_id} of an earlier run")
                ray_jobs.stop(client, str(one.submission_id))

    def submit(
        self, context: dg.AssetExecutionContext, training: TrainingSettings, folder: AnyPath
    ) -> list[dict[str, Any]]:
        """Run one Ray job to its end and return its messages; see `Cluster`."""
        from dagster_ray import PipesRayJobClient

        without_preview_warning()
        client, parameters = ray_jobs.connected(self.address), self.request(training, folder)
        name, gpus = parameters["submission_id"], parameters["entrypoint_num_gpus"]
        wanted = counted(self.num_cpus, "CPU") + (f" and {counted(int(gpus), 'GPU')}" if gpus else "")
        context.log.info(f"the Ray job {name} waits for {wanted} of a node")
        with staging.heartbeat(folder, self.patience):
            try:
                # A client and its message reader serve one job.
                pipes = PipesRayJobClient(self.address, message_reader=job_messages(client, name))
                ended = pipes.run(context=context, submit_job_params=parameters)
            except (RuntimeError, OSError) as error:
                raise self._failure(client, name, folder, error) from None
        return [dict(message) for message in ended.get_custom_messages()]

    def request(self, training: TrainingSettings, folder: AnyPath) -> "SubmitJobParams":
        """Return the parameters of the Ray job of a staged training; see `Cluster`."""
        gpus = num_gpus(training, self.num_gpus)
        return {
            "submission_id": f"{folder.name}-{uuid.uuid4().hex[:8]}",
            "entrypoint": ray_jobs.entry_point(
                "captcha_assets.training.cluster_job", str(folder), "--heartbeat", str(self.patience)
            ),
            "entrypoint_num_cpus": self.num_cpus,
            "entrypoint_num_gpus": gpus,
            "metadata": {_FOLDER: str(folder)},
            "runtime_env": ray_jobs.runtime_env(
                threads(training, self.num_cpus), gpus=gpus > 0, variables={}
            ),
        }

    def _failure(
        self, client: "JobSubmissionClient", name: str, folder: AnyPath, error: Exception
    ) -> Exception:
        """Return what to raise for a Ray job whose run ended with an error of the Pipes client."""
        try:
            info = client.get_job_info(name)
        except (RuntimeError, OSError):  # it was never submitted, or the cluster cannot be reached
            return ray_jobs.cluster_error(self.address, error)
        if not info.status.is_terminal():
            return ray_jobs.cluster_error(self.address, error)
        if info.driver_exit_code == STATUS_NO_STORE:
            return RayClusterError(
                f"the nodes of the Ray cluster at {self.address} do not reach {folder}: set "
                "CAPTCHA_COMPUTE_STORE to a folder or an object store that all of them reach"
            )
        return _job_error(info, staging.reason(folder))


def _job_error(info: "JobDetails", reason: str | None) -> Exception:
    """Return what to raise for a Ray job that failed or was stopped."""
    from ray.job_submission import JobErrorType, JobStatus

    name = info.submission_id
    if info.status == JobStatus.STOPPED:
        return RayClusterError(
            f"the Ray job {name} was stopped on the cluster: start the training again and it continues from "
            "its last checkpoint, if it finished an epoch"
        )
    if info.driver_exit_code is not None:
        return process_error(info.driver_exit_code, " on the Ray cluster", reason)
    said = ((info.message or "").splitlines() or ["Ray gives no reason"])[0]
    if info.error_type == JobErrorType.JOB_SUPERVISOR_ACTOR_DIED:
        return TrainingStoppedError(f"the node of the Ray job {name} was lost ({said})")
    return RayClusterError(f"the Ray job {name} could not start: {said}")
