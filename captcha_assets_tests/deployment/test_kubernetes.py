"""The manifests follow the schemas of Kubernetes, and fit the images, the settings and the code."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from captcha_assets.defs.compute.kubernetes_cluster import KubernetesCluster
from captcha_assets.defs.resources import cluster_of
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingSettings
from captcha_assets_tests.deployment.containers import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
FILES = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "kustomization"]
VALUES = yaml.safe_load((REPOSITORY / "deploy" / "helm" / "dagster-values.yaml").read_text())
VERSION = "1.34"


@cache
def manifests() -> list[dict[str, Any]]:
    return [one for path in FILES for one in yaml.safe_load_all(path.read_text())]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """Return the specifications of the pods, by the name of what starts them."""
    with_pods = [one for one in manifests() if one["kind"] in {"Deployment", "Job"}]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in with_pods}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_manifest_follows_the_schema_of_kubernetes(path: Path) -> None:
    written = list(yaml.safe_load_all(path.read_text()))
    assert written
    for one in written:
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_the_schema_finds_a_wrong_field() -> None:
    wrong = yaml.safe_load((FOLDER / "training-job.yaml").read_text())
    wrong["spec"]["template"]["spec"]["restartPolicys"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError, match="restartPolicys"):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_kustomize_builds_every_manifest_but_the_training_by_hand(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(FOLDER)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    names = {(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(built.stdout)}
    written = {(one["kind"], one["metadata"]["name"]) for one in manifests()}
    assert names == written - {("Job", "training")}


def test_every_image_is_one_of_ours_and_has_a_version() -> None:
    kustomized = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"]
    versions = {one["name"]: one["newTag"] for one in kustomized}
    images = [one["image"] for pod in pods().values() for one in pod["containers"]]
    images += [named("ConfigMap", "captcha-assets")["data"]["CAPTCHA_COMPUTE_IMAGE"]]
    helm = [VALUES["dagsterWebserver"], VALUES["dagsterDaemon"]]
    helm += VALUES["dagster-user-deployments"]["deployments"]
    images += [f"{one['image']['repository']}:{one['image']['tag']}" for one in helm]
    for image in images:
        name, _, version = image.partition(":")
        built = REPOSITORY / "dockerfiles" / f"{name.rpartition('captcha-assets-')[2]}.Dockerfile"
        assert built.is_file(), image
        assert re.fullmatch(r"\d+\.\d+\.\d+", version or versions[name]), image


def test_no_pod_is_root_or_gains_rights() -> None:
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert not pod["automountServiceAccountToken"], name
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], name
            assert not container["securityContext"]["allowPrivilegeEscalation"], name
            assert "memory" in container["resources"]["limits"], name


def test_the_probes_ask_what_the_images_ask_or_whether_a_model_answers() -> None:
    for name, pod in pods().items():
        if name == "training":
            continue
        text = (REPOSITORY / "dockerfiles" / f"{name}.Dockerfile").read_text()
        (container,) = pod["containers"]
        (port,) = container["ports"]
        liveness = container["livenessProbe"]["httpGet"]["path"]
        assert f"http://127.0.0.1:{port['containerPort']}{liveness}" in text
    (backend,) = pods()["backend"]["containers"]
    assert backend["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"


def test_the_frontend_finds_the_backend_by_its_name() -> None:
    service = named("Service", "backend")
    (port,) = service["spec"]["ports"]
    configured = (REPOSITORY / "dockerfiles" / "frontend.nginx.conf").read_text()
    assert f"proxy_pass http://{service['metadata']['name']}:{port['port']};" in configured


def test_the_settings_start_trainings_that_the_role_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_DATABASE", "postgresql://user:secret@postgres/captcha")
    for name, value in named("ConfigMap", "captcha-assets")["data"].items():
        monkeypatch.setenv(name, value)
    cluster = cluster_of(load_settings())
    assert isinstance(cluster, KubernetesCluster)
    pod = {"apiVersion": "v1", "kind": "Pod", **cluster.request(TrainingSettings(), REPOSITORY)}
    kubernetes_validate.validate(pod, VERSION, strict=True)
    assert cluster.namespace == yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["namespace"]
    rules = named("Role", "training")["rules"]
    allowed = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert {("pods", "create"), ("pods", "list"), ("pods", "delete"), ("pods/log", "get")} <= allowed
    (subject,) = named("RoleBinding", "training")["subjects"]
    assert subject["name"] == VALUES["serviceAccount"]["name"]


def test_the_values_of_the_chart_name_what_the_manifests_define() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    assert deployment["envConfigMaps"]
    for reference in deployment["envConfigMaps"]:
        assert named("ConfigMap", reference["name"])["data"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "code-location"},
        "spec": {
            "securityContext": deployment["podSecurityContext"],
            "containers": [
                {
                    "name": "code-location",
                    "securityContext": deployment["securityContext"],
                    "resources": deployment["resources"],
                    "envFrom": [{"configMapRef": one} for one in deployment["envConfigMaps"]]
                    + [{"secretRef": one} for one in deployment["envSecrets"]],
                }
            ],
        },
    }
    kubernetes_validate.validate(pod, VERSION, strict=True)
