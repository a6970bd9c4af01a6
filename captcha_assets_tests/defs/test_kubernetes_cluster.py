"""Trainings on Kubernetes, against a stand-in for its API server that runs the commands for real."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from upath import UPath

from captcha_assets.defs.compute.local_compute import LocalCompute
from captcha_assets.defs.compute.staged_compute import StagedCompute
from captcha_assets.defs.resources import compute_of
from captcha_assets.models import folder
from captcha_assets.settings import SettingsError, load_settings
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import ClusterError, TrainingFailedError
from captcha_assets_tests.defs import trainings
from captcha_assets_tests.defs.kubernetes_server import ApiServer, api_server, write_kubeconfig
from captcha_assets_tests.defs.trainings import run
from captcha_assets_tests.training.examples import job_on, write_batch
from captcha_assets_tests.training.processes import wait_until

IMAGE = "registry.example/captcha-assets-training:1"
TINY = TrainingSettings(epochs=3, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    place = tmp_path / "cluster"
    place.mkdir()
    with api_server(place) as found:
        monkeypatch.setenv("KUBECONFIG", str(place / "kubeconfig"))
        yield found


@pytest.fixture
def compute(server: ApiServer, bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> StagedCompute:
    """The resource that the settings name; the pods have the credentials of the bucket from a Secret."""
    server.secrets["store"] = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    monkeypatch.setenv("CAPTCHA_COMPUTE", "k8s://trainings")
    monkeypatch.setenv("CAPTCHA_COMPUTE_IMAGE", IMAGE)
    monkeypatch.setenv("CAPTCHA_COMPUTE_SECRET", "store")
    monkeypatch.setenv("CAPTCHA_COMPUTE_STORE", f"s3://{bucket.path.strip('/')}/jobs")
    found = compute_of(load_settings())
    assert isinstance(found, StagedCompute)
    return found


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return write_batch(tmp_path_factory.mktemp("batch"), 200)


@pytest.fixture
def job(batch: tuple[list[Path], Path], tmp_path: Path) -> TrainingJob:
    return job_on(batch, tmp_path / "work", TINY)


@pytest.mark.slow
def test_a_training_on_kubernetes_ends_in_the_model_of_this_machine_and_leaves_nothing(
    server: ApiServer,
    compute: StagedCompute,
    job: TrainingJob,
    batch: tuple[list[Path], Path],
    tmp_path: Path,
) -> None:
    said, log = run(compute, job)
    here = job_on(batch, tmp_path / "here", TINY)
    run(LocalCompute(), here)
    assert said[-1]["model_id"] == folder.verify(job.output) == folder.verify(here.output)
    assert any(line.startswith("epoch 3/3: ") for line in log), "progress is in the run's log"
    assert server.pods == {}
    assert not compute.store.exists(), "what was staged was left behind"
    (pod,) = server.created
    assert pod["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]


@pytest.mark.slow
def test_a_pod_that_is_lost_is_started_again_and_resumes(
    server: ApiServer, compute: StagedCompute, job: TrainingJob
) -> None:
    job = job.model_copy(update={"settings": TINY.replaced(epochs=60)})

    def lose() -> None:
        wait_until(lambda: list(compute.store.glob("*/checkpoints/last.ckpt")) != [], 300)
        server.kill_node()

    killer = threading.Thread(target=lose)
    killer.start()
    _, log = run(compute, job)
    killer.join()
    assert any(
        line.startswith("attempt 1 of 3: the training process on Kubernetes was ended") for line in log
    )
    assert any(line.startswith("resuming from ") for line in log)
    assert len(server.created) == 2
    assert folder.verify(job.output)


@pytest.mark.slow
def test_the_pod_of_a_run_that_was_killed_is_stopped_by_the_next_run_and_that_of_a_cancelled_one_by_it(
    server: ApiServer, compute: StagedCompute, job: TrainingJob, tmp_path: Path
) -> None:
    file = tmp_path / "job.json"
    job.model_copy(update={"settings": TINY.replaced(epochs=10_000)}).save(file)
    with subprocess.Popen([*trainings.COMMAND, str(file)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(compute.store.glob("*/checkpoints/last.ckpt")) != [], 300)
        process.kill()
    (left,) = server.pods
    with subprocess.Popen([*trainings.COMMAND, str(file)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(server.created) == 2, 300)
        assert left not in server.pods
        process.send_signal(signal.SIGINT)
    assert server.pods == {}
    assert not list(compute.store.glob("*/input")), "the tables were left behind"


@pytest.mark.slow
def test_a_training_that_fails_gives_its_own_message(compute: StagedCompute, job: TrainingJob) -> None:
    failing = job.model_copy(update={"settings": TINY.replaced(sample_size=1)})
    with pytest.raises(TrainingFailedError, match=r"^the \w+ split has 0 images") as caught:
        run(compute, failing)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_pods_without_access_to_the_store_are_one_clear_line(
    server: ApiServer, compute: StagedCompute, job: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captcha_assets.training.staging.stage", lambda *_: None)
    with pytest.raises(ClusterError, match=r"do not reach s3://.*: see CAPTCHA_COMPUTE_STORE, and the cred"):
        run(compute, job)


def test_an_image_that_cannot_be_pulled_is_one_clear_line(
    server: ApiServer, compute: StagedCompute, job: TrainingJob
) -> None:
    server.images.clear()
    with pytest.raises(ClusterError, match=r"could not start: .*ErrImagePull.*no such image") as caught:
        run(compute, job)
    assert "\n" not in str(caught.value)
    assert server.pods == {}


def test_a_server_that_refuses_or_does_not_answer_is_one_clear_line(
    server: ApiServer,
    compute: StagedCompute,
    job: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.forbidden = True
    with pytest.raises(ClusterError, match="answers 403 Forbidden in the namespace trainings: see that"):
        run(compute, job)
    write_kubeconfig(tmp_path / "wrong", "http://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "wrong"))
    with pytest.raises(ClusterError, match="the API server of Kubernetes cannot be reached"):
        run(compute, job)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match=r"Kubernetes is not configured: .* Set KUBECONFIG"):
        run(compute, job)


def test_a_training_reserves_what_its_settings_say(
    compute: StagedCompute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAPTCHA_COMPUTE_NUM_CPUS", "4")
    monkeypatch.setenv("CAPTCHA_COMPUTE_NUM_GPUS", "2")
    monkeypatch.setenv("CAPTCHA_COMPUTE_SERVICE_ACCOUNT", "trainer")
    cluster = compute_of(load_settings()).cluster  # type: ignore[attr-defined]
    of_gpus = cluster.request(TINY.replaced(accelerator="auto"), tmp_path)["spec"]
    assert of_gpus["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert of_gpus["containers"][0]["resources"]["requests"]["cpu"] == "4"
    assert of_gpus["serviceAccountName"] == "trainer"
    of_cpus = cluster.request(TINY, tmp_path)["spec"]
    assert of_cpus["containers"][0]["resources"]["limits"] == {}
    assert of_cpus["containers"][0]["env"] == [{"name": "OMP_NUM_THREADS", "value": "4"}]


USABLE = {
    "CAPTCHA_COMPUTE": "k8s://trainings",
    "CAPTCHA_COMPUTE_STORE": "s3://bucket/jobs",
    "CAPTCHA_COMPUTE_IMAGE": "localhost:5000/training:1",
}


def test_settings_that_can_be_used_are(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"CAPTCHA_COMPUTE_SECRET": "store.keys", "CAPTCHA_COMPUTE_SERVICE_ACCOUNT": "training"}
    for name, value in (USABLE | named).items():
        monkeypatch.setenv(name, value)
    assert load_settings().compute_image == "localhost:5000/training:1"


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"CAPTCHA_COMPUTE": "k8s://"}, "CAPTCHA_COMPUTE='k8s://' .*k8s://namespace"),
        (
            {"CAPTCHA_COMPUTE": "vertex://project"},
            "CAPTCHA_COMPUTE='vertex://project' .*vertex://project/region",
        ),
        ({"CAPTCHA_COMPUTE": "k8s://trainings"}, "CAPTCHA_COMPUTE_STORE is not set: .*need an object store"),
        (
            {"CAPTCHA_COMPUTE": "k8s://trainings", "CAPTCHA_COMPUTE_STORE": "gs://bucket/jobs"},
            "CAPTCHA_COMPUTE_IMAGE is not set: .*give that of dockerfiles/training.Dockerfile",
        ),
        ({**USABLE, "CAPTCHA_COMPUTE_IMAGE": "training:1; rm"}, "CAPTCHA_COMPUTE_IMAGE=.*name of an image"),
        ({**USABLE, "CAPTCHA_COMPUTE_SECRET": "My Secret"}, "CAPTCHA_COMPUTE_SECRET=.*name of a Secret"),
        ({**USABLE, "CAPTCHA_COMPUTE_SERVICE_ACCOUNT": "a@b"}, "_ACCOUNT='a@b' .*name of a ServiceAccount"),
        (
            {**USABLE, "CAPTCHA_COMPUTE": "vertex://project/region", "CAPTCHA_COMPUTE_SECRET": "store"},
            "CAPTCHA_COMPUTE_SECRET='store' .*only Kubernetes has Secrets",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], why: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=why) as caught:
        load_settings()
    assert "\n" not in str(caught.value)
