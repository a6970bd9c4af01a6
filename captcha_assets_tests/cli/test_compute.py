"""`captcha-assets compute`: where trainings run, and what would be sent there."""

from pathlib import Path

import yaml

from captcha_assets_tests.commands import run, succeeded

KUBERNETES = {
    "CAPTCHA_COMPUTE": "k8s://trainings",
    "CAPTCHA_COMPUTE_IMAGE": "registry.example/captcha-assets-training:1",
    "CAPTCHA_COMPUTE_STORE": "gs://bucket/jobs",
}
GPU = {"ops": {"resnet18": {"config": {"accelerator": "gpu", "devices": 2}}}}


def test_it_shows_the_pod_of_a_training_and_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "gpu.yaml").write_text(yaml.safe_dump(GPU))
    said = succeeded(tmp_path / "home", "compute", "--config", str(tmp_path / "gpu.yaml"), **KUBERNETES)
    assert said.splitlines()[:2] == [
        "# trainings run on: k8s://trainings",
        "# their files go through: gs://bucket/jobs",
    ]
    (container,) = yaml.safe_load(said)["spec"]["containers"]
    assert container["image"] == KUBERNETES["CAPTCHA_COMPUTE_IMAGE"]
    assert container["command"][-1] == "gs://bucket/jobs/FOLDER"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}


def test_it_shows_the_custom_job_of_a_training(tmp_path: Path) -> None:
    variables = KUBERNETES | {"CAPTCHA_COMPUTE": "vertex://my-project/europe-west4"}
    job = yaml.safe_load(succeeded(tmp_path / "home", "compute", **variables))
    (pool,) = job["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"] == {"machineType": "n2-standard-2"}


def test_it_says_that_trainings_run_here(tmp_path: Path) -> None:
    assert succeeded(tmp_path / "home", "compute") == "# trainings run on: local\n"


def test_a_run_config_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("ops: {resnet18: {config: {epochs: none}}}")
    done = run(tmp_path / "home", "compute", "--config", str(tmp_path / "bad.yaml"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "epochs" in done.stderr
