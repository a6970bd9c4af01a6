"""Trainings on Vertex AI, against a stand-in for its REST interface that runs the commands for real."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from captcha_assets.defs.compute.local_compute import LocalCompute
from captcha_assets.defs.compute.staged_compute import StagedCompute
from captcha_assets.defs.compute.vertex_cluster import VertexCluster
from captcha_assets.defs.resources import cluster_of, compute_of
from captcha_assets.models import folder
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import ClusterError, TrainingFailedError
from captcha_assets_tests.defs import trainings
from captcha_assets_tests.defs.test_kubernetes_cluster import TINY, batch, job  # noqa: F401
from captcha_assets_tests.defs.trainings import run
from captcha_assets_tests.defs.vertex_server import Vertex, vertex_server
from captcha_assets_tests.training.examples import job_on
from captcha_assets_tests.training.processes import wait_until

IMAGE = "registry.example/captcha-assets-training:1"


@pytest.fixture
def vertex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vertex]:
    place = tmp_path / "vertex"
    place.mkdir()
    with vertex_server(place) as (found, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.fixture
def compute(vertex: Vertex, bucket: UPath, monkeypatch: pytest.MonkeyPatch) -> StagedCompute:
    """The resource that the settings name, but for the seconds between two looks."""
    monkeypatch.setenv("CAPTCHA_COMPUTE", "vertex://my-project/europe-west4")
    monkeypatch.setenv("CAPTCHA_COMPUTE_IMAGE", IMAGE)
    monkeypatch.setenv("CAPTCHA_COMPUTE_SERVICE_ACCOUNT", "trainer@my-project.iam.gserviceaccount.com")
    monkeypatch.setenv("CAPTCHA_COMPUTE_STORE", f"s3://{bucket.path.strip('/')}/jobs")
    found = compute_of(load_settings())
    assert isinstance(found, StagedCompute)
    return found


@pytest.mark.slow
def test_a_training_on_vertex_ends_in_the_model_of_this_machine_and_leaves_nothing(
    vertex: Vertex,
    compute: StagedCompute,
    job: TrainingJob,  # noqa: F811
    batch: tuple[list[Path], Path],  # noqa: F811
    tmp_path: Path,
) -> None:
    said, log = run(compute, job)
    here = job_on(batch, tmp_path / "here", TINY)
    run(LocalCompute(), here)
    assert said[-1]["model_id"] == folder.verify(job.output) == folder.verify(here.output)
    assert any(line.startswith("epoch 3/3: ") for line in log), "progress is in the run's log"
    assert not compute.store.exists(), "what was staged was left behind"
    (submitted,) = vertex.jobs.values()
    (pool,) = submitted.body["jobSpec"]["workerPoolSpecs"]
    assert pool["containerSpec"]["imageUri"] == IMAGE
    assert submitted.body["jobSpec"]["serviceAccount"].startswith("trainer@")
    assert vertex.tokens, "the credentials were never used"


@pytest.mark.slow
def test_a_training_that_fails_gives_its_own_message(
    compute: StagedCompute,
    job: TrainingJob,  # noqa: F811
) -> None:
    failing = job.model_copy(update={"settings": TINY.replaced(sample_size=1)})
    with pytest.raises(TrainingFailedError, match=r"^the \w+ split has 0 images") as caught:
        run(compute, failing)
    assert "\n" not in str(caught.value)


def test_a_look_that_is_not_answered_is_repeated(
    vertex: Vertex, compute: StagedCompute, bucket: UPath
) -> None:
    vertex.unavailable = 1
    assert isinstance(compute.cluster, VertexCluster)
    with dg.build_asset_context() as context:
        compute.cluster.stop_earlier(context, bucket / "job")
    assert vertex.unavailable == 0


@pytest.mark.slow
def test_a_job_that_is_lost_is_submitted_again_and_resumes(
    vertex: Vertex,
    compute: StagedCompute,
    job: TrainingJob,  # noqa: F811
) -> None:
    job = job.model_copy(update={"settings": TINY.replaced(epochs=60)})

    def lose() -> None:
        wait_until(lambda: list(compute.store.glob("*/checkpoints/last.ckpt")) != [], 300)
        for one in vertex.jobs.values():
            one.process.terminate()

    killer = threading.Thread(target=lose)
    killer.start()
    _, log = run(compute, job)
    killer.join()
    assert any(line.startswith("attempt 1 of 3: the training process on Vertex AI was ended") for line in log)
    assert any(line.startswith("resuming from ") for line in log)
    assert folder.verify(job.output)


@pytest.mark.slow
def test_the_job_of_a_run_that_was_killed_is_canceled_by_the_next_run_and_that_of_a_cancelled_one_by_it(
    vertex: Vertex,
    compute: StagedCompute,
    job: TrainingJob,  # noqa: F811
    tmp_path: Path,
) -> None:
    file = tmp_path / "job.json"
    job.model_copy(update={"settings": TINY.replaced(epochs=10_000)}).save(file)
    with subprocess.Popen([*trainings.COMMAND, str(file)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: list(compute.store.glob("*/checkpoints/last.ckpt")) != [], 300)
        process.kill()
    (first,) = vertex.jobs.values()
    assert first.process.poll() is None, "nobody could cancel it"
    with subprocess.Popen([*trainings.COMMAND, str(file)], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(vertex.jobs) == 2, 300)
        assert first.canceled
        process.send_signal(signal.SIGINT)
    assert all(one.canceled for one in vertex.jobs.values())


def test_a_service_that_refuses_or_does_not_answer_is_one_clear_line(
    vertex: Vertex,
    compute: StagedCompute,
    job: TrainingJob,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vertex.forbidden = True
    with pytest.raises(ClusterError, match=r"^Vertex AI answers 403: Permission 'customJobs.list' denied.$"):
        run(compute, job)
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "http://127.0.0.1:1")
    compute = replace(compute, cluster=replace(compute.cluster, tries=0))
    with pytest.raises(ClusterError, match="Vertex AI cannot be reached at http://127"):
        run(compute, job)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(ClusterError, match="Google Cloud gives no credentials: run gcloud auth"):
        run(compute, job)


@pytest.mark.parametrize(
    ("settings", "cpus", "machine"),
    [
        (TINY, "1", {"machineType": "n2-standard-2"}),
        (TINY, "12", {"machineType": "n2-standard-16"}),
        (
            TINY.replaced(accelerator="gpu"),
            "1",
            {"machineType": "g2-standard-8", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1},
        ),
        (
            TINY.replaced(accelerator="gpu", devices=4),
            "1",
            {"machineType": "g2-standard-48", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 4},
        ),
    ],
)
def test_a_training_has_a_machine_with_what_it_reserves(  # noqa: PLR0917 - fixtures
    compute: StagedCompute,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: TrainingSettings,
    cpus: str,
    machine: dict[str, object],
) -> None:
    monkeypatch.setenv("CAPTCHA_COMPUTE_NUM_CPUS", cpus)
    cluster = cluster_of(load_settings())
    assert isinstance(cluster, VertexCluster)
    (pool,) = cluster.request(settings, tmp_path)["jobSpec"]["workerPoolSpecs"]
    assert pool["machineSpec"] == machine


def test_no_machine_has_three_gpus(compute: StagedCompute, tmp_path: Path) -> None:
    wanted = TINY.replaced(accelerator="gpu", devices=3, batch_size=33)
    with pytest.raises(ClusterError, match="no machine of Vertex AI has 3 GPUs: set devices to 1, 2, 4 or 8"):
        compute.cluster.request(wanted, tmp_path)
