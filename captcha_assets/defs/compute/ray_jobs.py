"""A Ray cluster, over its job API: what every kind of Ray job of this package needs."""

import logging
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import captcha_assets
from captcha_assets.training.failures import RayClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

#: Seconds to wait until a Ray job that is being stopped has ended.
_STOP_TIMEOUT = 30


def cluster_error(address: str, error: Exception) -> RayClusterError:
    """Return the error of a request to the cluster that failed, in one line."""
    if isinstance(error, OSError):
        return RayClusterError(
            f"the Ray cluster at {address} cannot be reached: see that its head is up, and CAPTCHA_COMPUTE"
        )
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if said.startswith("Version check returned 404"):
        return RayClusterError(
            f"what answers at {address} is not Ray's job API: give the address of the head's dashboard as "
            "CAPTCHA_COMPUTE, http://host:8265"
        )
    return RayClusterError(f"the Ray cluster at {address}: {said}")


@contextmanager
def cluster_errors(address: str) -> Iterator[None]:
    """Raise a RayClusterError where a request to the cluster fails in the block."""
    try:
        yield
    except RayClusterError:  # it says already what is wrong
        raise
    except (RuntimeError, OSError) as error:
        raise cluster_error(address, error) from error


def connected(address: str) -> "JobSubmissionClient":
    """Return a client of the job API at `address`.

    Raises:
        RayClusterError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise RayClusterError(
            "work on a Ray cluster needs the extra ray: pip install 'captcha-assets[ray]'"
        ) from error
    # It tells of each upload: the modules of its client have levels of their own, and share this handler.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.WARNING)
    with cluster_errors(address):
        client = JobSubmissionClient(address)
    if client.get_address() != address:
        raise RayClusterError(
            f"RAY_ADDRESS or RAY_API_SERVER_ADDRESS names {client.get_address()}, and Ray prefers it to "
            f"CAPTCHA_COMPUTE={address}: unset it"
        )
    return client


def stop(client: "JobSubmissionClient", name: str) -> bool:
    """Stop a Ray job, wait while it runs, and say whether it has ended.

    One that waits for a node ends when it starts.
    """
    from ray.job_submission import JobStatus

    try:
        if client.get_job_status(name).is_terminal():
            return True
        client.stop_job(name)
        until = time.monotonic() + _STOP_TIMEOUT
        while (status := client.get_job_status(name)) == JobStatus.RUNNING and time.monotonic() < until:
            time.sleep(0.5)
    except (RuntimeError, OSError):
        # There is no such job, or the cluster cannot be reached: the next run of the same work stops it.
        return False
    return status.is_terminal()


def runtime_env(threads: int, *, gpus: bool, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the environment of a Ray job: the nodes have the libraries, the source of this package is sent.

    Args:
        threads: how many a library starts.
        gpus: whether the job sees the GPUs of its node.
        variables: further ones. Ray's dashboard shows them, so none of them may be a secret.
    """
    # Not every version of Ray hides the GPUs of a node from a job that reserves none.
    hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {
        "py_modules": [str(Path(captcha_assets.__file__).parent)],
        "excludes": ["__pycache__"],
        "env_vars": {"OMP_NUM_THREADS": str(threads), **hidden, **variables},
    }


def entry_point(module: str, *arguments: str) -> str:
    """Return the command of a Ray job that runs a module of this package.

    The shell that Ray starts it with is replaced: Ray kills that process only when its node is lost.
    """
    return f"exec python -m {module} {shlex.join(arguments)}"


def num_cpus(address: str) -> list[int]:
    """Return the number of CPUs of each living node of a cluster.

    Raises:
        RayClusterError: the cluster cannot be reached.
    """
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    with cluster_errors(address):
        try:
            # A node that has just been lost counts as missing output.
            nodes = list_nodes(address, [("state", "=", "ALIVE")], raise_on_missing_output=False)
        except RayStateApiException as error:
            raise cluster_error(address, error) from error
    return [int(node.resources_total.get("CPU", 0)) for node in nodes]


def was_lost(info: "JobDetails") -> bool:
    """Say whether the process or the node of a Ray job that has ended was lost."""
    from ray.job_submission import JobErrorType, JobStatus

    if info.status == JobStatus.STOPPED:
        return False
    if info.driver_exit_code is None:
        return info.error_type == JobErrorType.JOB_SUPERVISOR_ACTOR_DIED
    return info.driver_exit_code < 0 or info.driver_exit_code > 128


def why_ended(info: "JobDetails") -> str | None:
    """Return why a Ray job was ended from outside, or could not start; None where it ended by itself."""
    from ray.job_submission import JobStatus

    name, said = info.submission_id, ((info.message or "").splitlines() or ["Ray gives no reason"])[0]
    if info.status == JobStatus.STOPPED:
        return f"the Ray job {name} was stopped on the cluster"
    if info.driver_exit_code is None:
        return (
            f"the node of the Ray job {name} was lost ({said})"
            if was_lost(info)
            else (f"the Ray job {name} could not start: {said}")
        )
    if was_lost(info):
        return f"the process of the Ray job {name} was ended from outside: perhaps the memory did not suffice"
    return None
