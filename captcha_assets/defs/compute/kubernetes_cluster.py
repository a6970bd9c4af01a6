"""Trainings on Kubernetes: each one is a pod, started over Dagster Pipes by dagster-k8s."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from captcha_assets.atomic_files import AnyPath
from captcha_assets.defs.compute.local_compute import without_preview_warning
from captcha_assets.defs.compute.staged_compute import Resources, command
from captcha_assets.text_formats import first_line
from captcha_assets.training import staging
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.failures import (
    STATUS_NO_STORE,
    ClusterError,
    TrainingStoppedError,
    process_error,
)

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api, V1Pod

#: Labels of a pod: the training that it runs, and the attempt.
_TRAINING, _ATTEMPT = "captcha-assets/training", "captcha-assets/attempt"
#: Seconds that a pod has to upload its last checkpoint when it is stopped, and that are waited for its end.
_GRACE, _STOP_TIMEOUT = 30, 60


@dataclass(frozen=True)
class KubernetesCluster:
    """A namespace of the cluster that this process runs in, or that the kubeconfig names."""

    namespace: str
    resources: Resources
    secret: str | None = None
    """Secret whose keys are environment variables of the container: the credentials of the store."""
    poll_interval: float = 2.0
    """Seconds between two looks at the pod."""

    def stop_earlier(self, context: dg.AssetExecutionContext, folder: AnyPath) -> None:
        """Stop the pod of an earlier run of the same training; see `Cluster`."""
        selector = f"{_TRAINING}={folder.name}"
        with self._cluster_errors():
            for pod in self._pods(selector):
                context.log.warning(f"stopping the pod {pod.metadata.name} of an earlier run")
            self._delete(selector)

    def request(self, training: TrainingSettings, folder: AnyPath) -> dict[str, Any]:
        """Return the pod that trains a staged job; see `Cluster`."""
        gpus = self.resources.gpus_for(training)
        devices = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        container: dict[str, Any] = {
            "name": "training",
            "image": self.resources.image,
            "command": command(folder),
            "env": [{"name": "OMP_NUM_THREADS", "value": str(self.resources.threads_for(training))}],
            "resources": {"requests": {"cpu": str(self.resources.num_cpus)} | devices, "limits": devices},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            # Processes of torch exchange tensors there; the default of 64 MiB is too small.
            "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
        }
        if self.secret:
            container["envFrom"] = [{"secretRef": {"name": self.secret}}]
        spec: dict[str, Any] = {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": _GRACE,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        }
        if self.resources.service_account:
            spec["serviceAccountName"] = self.resources.service_account
        if gpus:
            spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        return {"metadata": {"labels": {_TRAINING: folder.name}}, "spec": spec}

    def submit(
        self, context: dg.AssetExecutionContext, training: TrainingSettings, folder: AnyPath
    ) -> list[dict[str, Any]]:
        """Run one pod to its end; see `Cluster`."""
        from dagster_k8s import PipesK8sClient
        from dagster_k8s.client import DagsterK8sError

        without_preview_warning()
        body, attempt = self.request(training, folder), uuid.uuid4().hex[:8]
        labels = {**body["metadata"]["labels"], _ATTEMPT: attempt}
        context.log.info(
            f"the pod of the attempt {attempt} waits for a node of the namespace {self.namespace}"
        )
        try:
            with self._cluster_errors():
                client = PipesK8sClient(kubeconfig_file=_kubeconfig(), poll_interval=self.poll_interval)
                ended = client.run(
                    context=context,
                    namespace=self.namespace,
                    base_pod_meta={"labels": labels},
                    base_pod_spec=body["spec"],
                    delete_pod_on_completion=False,  # its exit status is read first
                )
        except DagsterK8sError as error:
            raise self._failure(f"{_ATTEMPT}={attempt}", folder, error) from None
        finally:
            self._try_to_delete(f"{_ATTEMPT}={attempt}")
        return [dict(message) for message in ended.get_custom_messages()]

    def _failure(self, selector: str, folder: AnyPath, error: Exception) -> Exception:
        """Return what to raise for a pod that did not end well."""
        with self._cluster_errors():
            pods = self._pods(selector)
        if not pods or pods[0].status.reason in {
            "Evicted",
            "NodeLost",
            "Preempting",
            "Shutdown",
            "Terminated",
        }:
            return TrainingStoppedError(
                f"the pod of the training, or its node, was lost ({first_line(error)})"
            )
        terminated = [
            one.state.terminated
            for one in pods[0].status.container_statuses or []
            if one.state.terminated is not None
        ]
        if not terminated:
            return ClusterError(f"the pod of the training could not start: {first_line(error)}")
        status = int(terminated[0].exit_code)
        if status == STATUS_NO_STORE:
            return ClusterError(
                f"the pods of the namespace {self.namespace} do not reach {folder}: see "
                "CAPTCHA_COMPUTE_STORE, and the credentials that CAPTCHA_COMPUTE_SECRET or "
                "CAPTCHA_COMPUTE_SERVICE_ACCOUNT gives them"
            )
        return process_error(status, " on Kubernetes", staging.reason(folder))

    # --- the API server

    def _api(self) -> "CoreV1Api":
        import kubernetes

        if _in_cluster():
            kubernetes.config.load_incluster_config()
        else:
            kubernetes.config.load_kube_config(_kubeconfig())
        return kubernetes.client.CoreV1Api()

    def _pods(self, selector: str) -> "list[V1Pod]":
        return list(self._api().list_namespaced_pod(self.namespace, label_selector=selector).items)

    def _delete(self, selector: str) -> None:
        """Delete pods, and wait until they have ended."""
        from kubernetes.client import ApiException

        until = time.monotonic() + _STOP_TIMEOUT
        for pod in self._pods(selector):
            try:
                self._api().delete_namespaced_pod(pod.metadata.name, self.namespace)
            except ApiException as error:
                if error.status != 404:  # it has just ended
                    raise
        while self._pods(selector) and time.monotonic() < until:
            time.sleep(min(1.0, self.poll_interval))

    def _try_to_delete(self, selector: str) -> None:
        """Delete pods; where the API server does not answer, the next run of the training does."""
        try:
            with self._cluster_errors():
                self._delete(selector)
        except ClusterError:
            return

    @contextmanager
    def _cluster_errors(self) -> Iterator[None]:
        """Raise each error of a request to the API server as one line."""
        try:
            from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
        except ImportError as error:
            raise ClusterError(
                "trainings on Kubernetes need the extra k8s: pip install 'captcha-assets[k8s]'"
            ) from error
        from kubernetes.client import ApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ConfigException as error:
            raise ClusterError(f"Kubernetes is not configured: {first_line(error)} Set KUBECONFIG") from error
        except HTTPError as error:
            raise ClusterError(
                f"the API server of Kubernetes cannot be reached: see the kubeconfig ({first_line(error)})"
            ) from error
        except ApiException as error:
            raise ClusterError(
                f"Kubernetes answers {error.status} {error.reason} in the namespace {self.namespace}: see "
                "that it exists, and the role of docs/deployment.md"
            ) from error
        except (DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError) as error:
            raise ClusterError(f"Kubernetes: {first_line(error)}") from error


def _in_cluster() -> bool:
    """Say whether this process runs in a pod of the cluster."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _kubeconfig() -> str | None:
    """Return the kubeconfig as it is set now: the library reads the variable once, when it is imported."""
    return None if _in_cluster() else os.environ.get("KUBECONFIG")
