"""Trainings on Vertex AI: each one is a custom job, submitted over Dagster Pipes by its REST interface.

A custom job hands its output to Cloud Logging. What the training reports comes back through the store.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import dagster as dg

from captcha_assets.atomic_files import AnyPath, file_errors, remove
from captcha_assets.defs.compute.local_compute import without_preview_warning
from captcha_assets.defs.compute.staged_compute import Resources, command
from captcha_assets.text_formats import first_line
from captcha_assets.training import staging
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.failures import STATUS_NO_STORE, ClusterError, process_error

#: Label of a custom job: the training that it runs.
_TRAINING = "captcha-assets-training"
#: File of a container that its training writes its messages to.
_MESSAGES = "/tmp/pipes-messages"  # noqa: S108 - nothing else runs in the container
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: gcloud's own variable for another address of the service.
_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
_ENDED = {"JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"}
#: vCPUs of the machine types n2-standard-N.
_CPUS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 128)
#: Machine types of so many NVIDIA L4.
_L4 = {1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"}
#: Seconds that are waited for the end of a job that is canceled, and for one answer.
_STOP_TIMEOUT, _TIMEOUT = 300, 60
#: Answers after which a request that changes nothing is repeated.
_PASSING = (429, 500, 502, 503, 504)


class StoredMessageReader(dg.PipesMessageReader):
    """Reads the messages of a training from its folder in the store while it runs.

    Args:
        folder: of `staging`.
        interval: seconds between two looks.
    """

    def __init__(self, folder: AnyPath, interval: float) -> None:
        self._stored, self._interval = folder / staging.MESSAGES, interval
        self._read, self._ended = 0, threading.Event()

    @contextmanager
    def read_messages(self, handler: "dg.PipesMessageHandler") -> Iterator[dict[str, str]]:
        """Read them in a thread while the block runs, and what is left at its end."""

        def follow() -> None:
            while not self._ended.wait(self._interval):
                with suppress(*file_errors()):  # the store is asked again
                    self._handle_new(handler)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield {"path": _MESSAGES}
        finally:
            self._ended.set()
            thread.join()
            self._handle_new(handler)

    def _handle_new(self, handler: "dg.PipesMessageHandler") -> None:
        if not self._stored.exists():
            return
        lines = self._stored.read_text().splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        if len(complete) < self._read:  # the container was started again
            self._read = 0
        for line in complete[self._read :]:
            handler.handle_message(json.loads(line))
        self._read = len(complete)

    def no_messages_debug_text(self) -> str:
        """Say where messages were looked for."""
        return f"Looked for messages in {self._stored}."


@dataclass(frozen=True)
class VertexCluster:
    """Custom jobs of a project of Google Cloud in one region."""

    project: str
    region: str
    resources: Resources
    poll_interval: float = 10.0
    """Seconds between two looks at the job."""
    tries: int = 5
    """How often a request that changes nothing is repeated, 1, 2, 4, ... seconds after the one before."""

    def stop_earlier(self, context: dg.AssetExecutionContext, folder: AnyPath) -> None:
        """Cancel the custom job of an earlier run of the same training; see `Cluster`."""
        for name in self._running(folder):
            context.log.warning(f"canceling the custom job {name} of an earlier run")
            self._cancel(name)

    def request(self, training: TrainingSettings, folder: AnyPath) -> dict[str, Any]:
        """Return the custom job that trains a staged job; see `Cluster`."""
        threads = str(self.resources.threads_for(training))
        spec: dict[str, Any] = {
            "workerPoolSpecs": [
                {
                    "machineSpec": self._machine(training),
                    "replicaCount": "1",
                    "containerSpec": {
                        "imageUri": self.resources.image,
                        "command": command(folder, "--messages", _MESSAGES),
                        "env": [{"name": "OMP_NUM_THREADS", "value": threads}],
                    },
                }
            ],
            "scheduling": {"restartJobOnWorkerRestart": True},
        }
        if self.resources.service_account:
            spec["serviceAccount"] = self.resources.service_account
        return {
            "displayName": f"captcha-assets {folder.name}",
            "labels": {_TRAINING: folder.name},
            "jobSpec": spec,
        }

    def submit(
        self, context: dg.AssetExecutionContext, training: TrainingSettings, folder: AnyPath
    ) -> list[dict[str, Any]]:
        """Run one custom job to its end; see `Cluster`."""
        without_preview_warning()
        remove(folder / staging.MESSAGES)  # those of an earlier attempt
        reader = StoredMessageReader(folder, min(2.0, self.poll_interval))
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), reader) as session:
            body = _with_variables(self.request(training, folder), session.get_bootstrap_env_vars())
            try:
                job = self._ask("POST", "customJobs", json=body)
                context.log.info(f"the custom job {job['name']} waits for a {self._machine(training)}")
                while job["state"] not in _ENDED:
                    time.sleep(self.poll_interval)
                    job = self._ask("GET", _relative(job["name"]))
            finally:
                self._try_to_cancel(folder)
        if job["state"] != "JOB_STATE_SUCCEEDED":
            raise _failure(job, folder)
        return [dict(message) for message in session.get_custom_messages()]

    def _machine(self, training: TrainingSettings) -> dict[str, Any]:
        """Return the machine of a training: one with NVIDIA L4 where it reserves GPUs.

        Raises:
            ClusterError: no machine has what it reserves.
        """
        gpus = self.resources.gpus_for(training)
        if gpus:
            if gpus not in _L4:
                raise ClusterError(f"no machine of Vertex AI has {gpus} GPUs: set devices to 1, 2, 4 or 8")
            return {"machineType": _L4[gpus], "acceleratorType": "NVIDIA_L4", "acceleratorCount": gpus}
        for cpus in _CPUS:
            if cpus >= self.resources.num_cpus:
                return {"machineType": f"n2-standard-{cpus}"}
        raise ClusterError(
            f"no machine of Vertex AI has {self.resources.num_cpus} CPUs: lower CAPTCHA_COMPUTE_NUM_CPUS"
        )

    # --- the service

    def _cancel(self, name: str) -> None:
        """Cancel a job, and wait until it has ended."""
        self._ask("POST", f"{_relative(name)}:cancel", json={})
        until = time.monotonic() + _STOP_TIMEOUT
        while self._ask("GET", _relative(name))["state"] not in _ENDED and time.monotonic() < until:
            time.sleep(min(2.0, self.poll_interval))

    def _running(self, folder: AnyPath) -> list[str]:
        """Return the names of the jobs of a training that have not ended."""
        listed = self._ask("GET", "customJobs", params={"filter": f"labels.{_TRAINING}={folder.name}"})
        return [job["name"] for job in listed.get("customJobs", []) if job["state"] not in _ENDED]

    def _try_to_cancel(self, folder: AnyPath) -> None:
        """Cancel the job of a training, also one whose name an interrupted request never learned.

        Where the service does not answer, the next run of the training cancels it.
        """
        with suppress(ClusterError):
            for name in self._running(folder):
                self._cancel(name)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """Return the answer of the service to a request about the project and region.

        Raises:
            ClusterError: there are no credentials, or the service does not answer, or not with success.
        """
        try:
            import google.auth
            from google.auth.exceptions import GoogleAuthError
            from google.auth.transport.requests import AuthorizedSession
            from requests import RequestException
            from requests.adapters import HTTPAdapter
            from urllib3 import Retry
        except ImportError as error:
            raise ClusterError(
                "trainings on Vertex AI need the extra vertex: pip install 'captcha-assets[vertex]'"
            ) from error
        # A look at a job that has trained for hours is repeated; what changes something is not.
        retries = Retry(self.tries, backoff_factor=1, status_forcelist=_PASSING, raise_on_status=False)
        service = os.environ.get(_ENDPOINT) or f"https://{self.region}-aiplatform.googleapis.com"
        url = f"{service.rstrip('/')}/v1/projects/{self.project}/locations/{self.region}/{path}"
        try:
            credentials, _ = google.auth.default(scopes=[_SCOPE])
            session = AuthorizedSession(credentials)
            session.mount(service, HTTPAdapter(max_retries=retries))
            answer = session.request(method, url, timeout=_TIMEOUT, **request)
        except GoogleAuthError as error:
            raise ClusterError(
                "Google Cloud gives no credentials: run gcloud auth application-default login "
                f"({first_line(error)})"
            ) from error
        except RequestException as error:
            raise ClusterError(f"Vertex AI cannot be reached at {service}: {type(error).__name__}") from error
        if answer.status_code >= 400:
            raise ClusterError(f"Vertex AI answers {answer.status_code}: {_said(answer.text)}")
        return dict(answer.json())


def _with_variables(body: dict[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a custom job whose container has more environment variables."""
    container = body["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]
    container["env"] += [{"name": name, "value": value} for name, value in variables.items()]
    return body


def _relative(name: str) -> str:
    """Return the name of a job below its project and region."""
    return name[name.index("customJobs/") :]


def _failure(job: Mapping[str, Any], folder: AnyPath) -> Exception:
    """Return what to raise for a custom job that did not succeed."""
    said = str(job.get("error", {}).get("message") or "it gives no reason")
    if job["state"] == "JOB_STATE_CANCELLED":
        return ClusterError(
            f"the custom job {job['name']} was canceled: start the training again and it continues from its "
            "last checkpoint, if it finished an epoch"
        )
    exited = re.search(r"non-zero status of (\d+)", said)
    if exited and int(exited[1]) == STATUS_NO_STORE:
        return ClusterError(
            f"the machines of Vertex AI do not reach {folder}: see CAPTCHA_COMPUTE_STORE, and the rights of "
            "CAPTCHA_COMPUTE_SERVICE_ACCOUNT"
        )
    if exited:
        return process_error(int(exited[1]), " on Vertex AI", staging.reason(folder))
    return ClusterError(f"the custom job {job['name']} failed: {first_line(said)}")


def _said(answer: str) -> str:
    """Return the message of an error that the service answered."""
    try:
        return first_line(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return first_line(answer) or "no message"
