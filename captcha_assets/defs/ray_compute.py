"""The resource `compute` on a Ray cluster: a training is a Ray job, submitted over Dagster Pipes."""

import shlex
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

import captcha_assets
from captcha_assets.atomic_files import AnyPath, remove
from captcha_assets.defs.compute import without_preview_warning
from captcha_assets.training import staging
from captcha_assets.training.__main__ import is_done
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import (
    STATUS_NO_STORE,
    RayClusterError,
    TrainingStoppedError,
    process_error,
)

if TYPE_CHECKING:
    from dagster_ray.core.pipes import SubmitJobParams
    from ray.job_submission import JobDetails, JobSubmissionClient

#: How often a training is submitted whose process or node was lost.
_ATTEMPTS = 3
#: Seconds to wait until a Ray job that is being stopped has ended.
_STOP_TIMEOUT = 30
#: Key of a Ray job's metadata: the folder of the training that it runs.
_FOLDER = "captcha_assets/folder"


@dataclass(frozen=True)
class RayCompute:
    """Trains as a job of a Ray cluster; the files of the training go through a store that both reach."""

    address: str
    """Of Ray's job API, `http://head:8265`."""
    store: AnyPath
    num_cpus: int = 1
    """What a training reserves of a node, and how many threads it has."""
    num_gpus: int = 0
    """The most GPUs that a training with `accelerator` auto reserves."""

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train on the Ray cluster; see `Compute`."""
        # The caller removes this folder with the model.
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if is_done(job):
            context.log.info(f"{job.output} is the model of this very job already")
            return []
        folder = staging.staged_folder(self.store, job)
        client = _connected(self.address)
        _stop_earlier(context, client, folder)
        messages = self._trained(context, client, job, folder)
        if not any(one.get("stopped") for one in messages):
            staging.fetch_model(folder, job.output)
        remove(folder)
        return messages

    def _trained(
        self,
        context: dg.AssetExecutionContext,
        client: "JobSubmissionClient",
        job: TrainingJob,
        folder: AnyPath,
    ) -> list[dict[str, Any]]:
        """Train, unless the model is in the store already, and return the messages of the process."""
        if staging.has_model(folder):
            context.log.info(f"the model of this very job lies in {folder} already")
            return []
        try:
            staging.stage(job, folder)
            for attempt in range(1, _ATTEMPTS):
                try:
                    return self._submit(context, client, job.settings, folder)
                except TrainingStoppedError as error:
                    context.log.warning(f"attempt {attempt} of {_ATTEMPTS}: {error}")
            return self._submit(context, client, job.settings, folder)
        finally:
            staging.remove_input(folder)

    def _submit(
        self,
        context: dg.AssetExecutionContext,
        client: "JobSubmissionClient",
        training: TrainingSettings,
        folder: AnyPath,
    ) -> list[dict[str, Any]]:
        """Run one Ray job to its end and return its messages; it has ended however this returns."""
        from dagster_ray import PipesRayJobClient

        without_preview_warning()
        parameters = self._parameters(training, folder)
        name, gpus = parameters["submission_id"], parameters["entrypoint_num_gpus"]
        context.log.info(f"the Ray job {name} waits for {self.num_cpus} CPUs and {gpus} GPUs of a node")
        try:
            # A client and its message reader serve one job.
            ended = PipesRayJobClient(self.address).run(context=context, submit_job_params=parameters)
        except (RuntimeError, OSError) as error:
            raise self._failure(client, name, folder, error) from None
        finally:
            _stop(client, name)
        return [dict(message) for message in ended.get_custom_messages()]

    def _parameters(self, training: TrainingSettings, folder: AnyPath) -> "SubmitJobParams":
        gpus, threads = num_gpus(training, self.num_gpus), max(1, self.num_cpus // training.devices)
        # Not every version of Ray hides the GPUs of a node from a job that reserves none.
        hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        return {
            "submission_id": f"{folder.name}-{uuid.uuid4().hex[:8]}",
            "entrypoint": f"python -m captcha_assets.training.ray_job {shlex.quote(str(folder))}",
            "entrypoint_num_cpus": self.num_cpus,
            "entrypoint_num_gpus": gpus,
            "metadata": {_FOLDER: str(folder)},
            "runtime_env": {
                # The nodes have the libraries; the source of this package is sent along.
                "py_modules": [str(Path(captcha_assets.__file__).parent)],
                "excludes": ["__pycache__"],
                "env_vars": {"OMP_NUM_THREADS": str(threads), **hidden},
            },
        }

    def _failure(
        self, client: "JobSubmissionClient", name: str, folder: AnyPath, error: Exception
    ) -> Exception:
        """Return what to raise for a Ray job whose run ended with an error of the Pipes client."""
        try:
            info = client.get_job_info(name)
        except (RuntimeError, OSError):  # it was never submitted, or the cluster cannot be reached
            return _cluster_error(self.address, error)
        if not info.status.is_terminal():
            return _cluster_error(self.address, error)
        if info.driver_exit_code == STATUS_NO_STORE:
            return RayClusterError(
                f"the nodes of the Ray cluster at {self.address} do not reach {folder}: set "
                "CAPTCHA_COMPUTE_STORE to a folder or an object store that all of them reach"
            )
        return _job_error(info, staging.reason(folder))


def num_gpus(training: TrainingSettings, limit: int) -> int:
    """Return how many GPUs a training reserves.

    Args:
        training: with `accelerator` gpu it reserves one for each of its devices, with cpu none.
        limit: the most that it may reserve with `accelerator` auto.
    """
    return {"cpu": 0, "gpu": training.devices, "auto": min(training.devices, limit)}[training.accelerator]


# --- the cluster


def _cluster_error(address: str, error: Exception) -> RayClusterError:
    """Return the error of a request to the cluster that failed, in one line."""
    if isinstance(error, OSError):
        return RayClusterError(
            f"the Ray cluster at {address} cannot be reached: see that its head is up, and CAPTCHA_COMPUTE"
        )
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return RayClusterError(f"the Ray cluster at {address}: {said}")


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise _cluster_error(address, error) from error


def _connected(address: str) -> "JobSubmissionClient":
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise RayClusterError(
            "trainings on a Ray cluster need the extra ray: pip install 'captcha-assets[ray]'"
        ) from error
    with _cluster_errors(address):
        client = JobSubmissionClient(address)
    if client.get_address() != address:
        raise RayClusterError(
            f"RAY_ADDRESS or RAY_API_SERVER_ADDRESS names {client.get_address()}, and Ray prefers it to "
            f"CAPTCHA_COMPUTE={address}: unset it"
        )
    return client


def _stop_earlier(context: dg.AssetExecutionContext, client: "JobSubmissionClient", folder: AnyPath) -> None:
    """Stop the Ray job that a killed run of the same training left behind."""
    with _cluster_errors(client.get_address()):
        jobs = client.list_jobs()
    for one in jobs:
        if (one.metadata or {}).get(_FOLDER) == str(folder) and not one.status.is_terminal():
            context.log.warning(f"stopping the Ray job {one.submission_id} of an earlier run")
            _stop(client, str(one.submission_id))


def _stop(client: "JobSubmissionClient", name: str) -> None:
    """Stop a Ray job and wait until it has ended; one that waits for a node ends when it starts."""
    from ray.job_submission import JobStatus

    try:
        if client.get_job_status(name).is_terminal():
            return
        client.stop_job(name)
        until = time.monotonic() + _STOP_TIMEOUT
        while client.get_job_status(name) == JobStatus.RUNNING and time.monotonic() < until:
            time.sleep(0.5)
    except (RuntimeError, OSError):
        # There is no such job, or the cluster cannot be reached: the next run of the training stops it.
        return


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
