"""Each image is built from its Dockerfile, started as an engine would, and asked its health check."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from captcha_assets.serving.security_headers import SECURITY_HEADERS
from captcha_assets.serving.web_page import CONTENT_SECURITY_POLICY, PAGE_FILES
from captcha_assets_tests.deployment import containers
from captcha_assets_tests.deployment.containers import BASES, REPOSITORY, Builder, Pod
from captcha_assets_tests.deployment.test_compose import services
from captcha_assets_tests.serving.services import make_home, png_files

#: Images of some GB are built one after the other, and by one process of the tests.
SLOW = [pytest.mark.slow, pytest.mark.timeout(3000), pytest.mark.xdist_group("containers")]
DOCKERFILES = sorted((REPOSITORY / "dockerfiles").glob("*.Dockerfile"))
#: torch with its CUDA libraries is 7 GB: these two are built where somebody asks for it.
LARGE = {"evaluation", "training"}


# --- what every Dockerfile says


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_is_not_root_is_pinned_and_says_how_its_health_is_seen(path: Path) -> None:
    text = path.read_text()
    bases = re.findall(r"(?m)^FROM (\S+)", text)
    assert bases
    assert set(bases) <= set(BASES), "a base image has an exact version, and the tests' stand-in is for these"
    assert re.findall(r"(?m)^USER (\S+)", text)[-1] == "10001"
    assert len(re.findall(r"(?m)^HEALTHCHECK ", text)) == 1
    if "uv pip install" in text:
        assert "--require-hashes --constraint requirements.lock" in text


def test_the_frontend_gives_the_page_the_headers_that_the_service_gives_it() -> None:
    configured = (REPOSITORY / "dockerfiles" / "frontend.nginx.conf").read_text()
    given = dict(re.findall(r'add_header (\S+) "(.*)";', configured))
    assert given == {**SECURITY_HEADERS, "Content-Security-Policy": CONTENT_SECURITY_POLICY}


# --- built and started


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    with containers.builder() as found:
        yield found


@pytest.fixture
def pod(builder: Builder, tmp_path: Path) -> Iterator[Pod]:
    with containers.pod(builder, tmp_path) as found:
        yield found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that the user of the images may write to."""
    folder = tmp_path / "home"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    return folder


def words_of(instruction: str, name: str) -> list[str]:
    """Return the command of a Dockerfile, or its health check."""
    text = (REPOSITORY / "dockerfiles" / f"{name}.Dockerfile").read_text().replace("\\\n", "")
    return list(json.loads(re.findall(rf"(?m)^{instruction} [^\[]*(\[.*\])$", text)[-1]))


def assets(pod: Pod) -> list[str]:
    """Return the assets that the webserver knows."""
    query = json.dumps({"query": "{assetNodes {assetKey {path}}}"})
    post = ("--header", "Content-Type: application/json", "--data", query)
    nodes = json.loads(pod.ask("http://127.0.0.1:3000/graphql", *post).rpartition("\n\n")[2])
    return [one["assetKey"]["path"][0] for one in nodes["data"]["assetNodes"]]


def own(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 10001, 10001)


@pytest.mark.slow
class TestBuilt:
    pytestmark = SLOW

    def test_the_frontend_serves_the_page_and_the_backend_answers_through_it(
        self, builder: Builder, pod: Pod, home: Path, tmp_path: Path
    ) -> None:
        make_home(home)
        own(home)
        image = tmp_path / "a.png"
        image.write_bytes(png_files(1)[0])
        with (
            pod.container(builder.build("backend"), home) as backend,
            pod.container(builder.build("frontend")) as frontend,
        ):
            for container in (backend, frontend):
                user = container.run("id", "-u")
                assert user.stdout == "10001\n", user.stderr
            assert not backend.is_healthy(), "nothing was started yet"
            backend.start()
            assert backend.becomes_healthy(), backend.log.read_text()
            frontend.start()
            assert frontend.becomes_healthy(), frontend.log.read_text()
            for path, (name, _) in PAGE_FILES.items():
                page, direct = (pod.ask(f"http://127.0.0.1:{port}{path}") for port in (8080, 8000))
                assert page.startswith("HTTP/1.1 200")
                assert page.endswith((REPOSITORY / "captcha_assets/serving/page" / name).read_text().strip())
                assert headers(page) == headers(direct)
            form = partial(pod.ask, "http://127.0.0.1:8080/v1/predict", "--form", f"image=@{image}")
            answer = json.loads(form().rpartition("\n\n")[2])
            assert answer["predictions"][0]["label"]
            backend.stop()
            assert not backend.is_healthy()
            assert form().startswith("HTTP/1.1 502")
            assert frontend.is_healthy(), "the page does not need the service"

    def test_the_webserver_and_the_monitoring_start(self, builder: Builder, pod: Pod, home: Path) -> None:
        with pod.container(builder.build("platform"), home) as platform:
            user = platform.run("id", "-u")
            assert user.stdout == "10001\n", user.stderr
            assert platform.run("python", "-c", "import torch").returncode != 0
            for line in (
                "batch add october synthetic:100:1",
                "status",
            ):  # the second as `setup` of compose.yaml
                done = platform.run("captcha-assets", *line.split())
                assert done.returncode == 0, done.stderr
            assert not platform.is_healthy(), "nothing was started yet"
            platform.start()
            assert platform.becomes_healthy(), platform.log.read_text()
            assert "champion" in assets(pod)
            platform.stop()
            assert not platform.is_healthy()
        with (
            pod.container("captcha-assets-platform", home) as code,
            pod.container("captcha-assets-platform", home) as web,
        ):
            code.start(*words_of("CMD", "evaluation"))
            check = ["CMD", *words_of("HEALTHCHECK", "evaluation")]
            assert code.becomes_healthy(check), code.log.read_text()
            web.mount(
                REPOSITORY / "dockerfiles" / "workspace-code-location.yaml",
                "/app/workspace-code-location.yaml",
            )
            web.start(*services()["webserver"]["command"])
            assert web.becomes_healthy(), web.log.read_text()
            assert "champion" in assets(pod), code.log.read_text()
        with pod.container(builder.build("monitoring"), home) as monitoring:
            assert not monitoring.is_healthy(), "nothing was started yet"
            monitoring.start()
            assert monitoring.becomes_healthy(), monitoring.log.read_text()
            assert "october" in pod.ask("http://127.0.0.1:3001/")
            drift = monitoring.run("dg", "list", "defs", "--assets", "drift_report", "--json")
            assert "drift_report" in drift.stdout, drift.stderr

    @pytest.mark.skipif(
        "LARGE_IMAGES" not in os.environ or shutil.disk_usage("/").free < 40e9,
        reason="7 GB of torch: set LARGE_IMAGES=1, and have 40 GB free",
    )
    def test_the_training_image_says_how_it_is_used_and_the_code_location_is_healthy(
        self, builder: Builder, pod: Pod, home: Path
    ) -> None:
        with pod.container(builder.build("training")) as training:
            ended = training.run("python", "-m", "captcha_assets.training")
            assert "usage: python -m captcha_assets.training JOB.json" in ended.stderr
            assert training.run("python", "-c", "import torch, timm, pytorch_lightning").returncode == 0
        with pod.container(builder.build("evaluation"), home) as evaluation:
            evaluation.start()
            assert evaluation.becomes_healthy(), evaluation.log.read_text()


def headers(answer: str) -> dict[str, str]:
    """Return the headers of an answer that protect the page."""
    found = dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", answer))
    return {name.lower(): value for name, value in found.items() if name.title() in SECURITY_HEADERS}
