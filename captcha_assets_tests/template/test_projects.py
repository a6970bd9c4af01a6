"""A project of the template takes its images from an archive to a served prediction, by its spec alone."""

import json
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sklearn.datasets import load_digits

from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.defs.test_other_datasets import crops, encoded, write
from captcha_assets_tests.defs.test_ui import ask, free_port
from captcha_assets_tests.template.projects import (
    BIN,
    DIGITS,
    PHOTOS,
    commit,
    environment,
    git,
    new,
    said,
    template_repository,
)

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class Example:
    """A project, its images as an archive, and some files with their labels."""

    folder: Path
    images: str
    files: list[tuple[str, bytes]]


def digits(folder: Path, template: Path) -> Example:
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    files = [(str(label), encoded(image, ".png")) for image, label in zip(images, found.target, strict=True)]
    members = {f"{label}_{n}.png": data for n, (label, data) in enumerate(files)}
    return Example(
        new(template, folder / "digits", *DIGITS), write(folder / "digits.zip", members), files[:100]
    )


def photos(folder: Path, template: Path) -> Example:
    pieces = crops(np.random.default_rng(0), 400)
    files = [(label, encoded(piece[..., ::-1], ".jpg")) for label, piece in pieces]
    members = {f"photos/{label}/{n}.jpg": data for n, (label, data) in enumerate(files)}
    return Example(
        new(template, folder / "photos", *PHOTOS), write(folder / "photos.zip", members), files[::8]
    )


def _alone(of: Callable[[Path, Path], Example], name: str) -> Any:
    """Return a parameter whose tests run in one process, so that its `make demo` runs once."""
    return pytest.param(of, id=name, marks=pytest.mark.xdist_group(f"template-{name}"))


@pytest.fixture(scope="module", params=[_alone(digits, "digits"), _alone(photos, "photos")])
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    """A project after its `make demo`."""
    folder = tmp_path_factory.mktemp("example")
    made: Example = request.param(folder, template_repository(folder / "repository"))
    commit(made.folder)
    assert "promoted: the first model" in said(made.folder, "make", "demo", f"IMAGES={made.images}")
    return made


#: For what does not depend on the spec.
one_project = pytest.mark.parametrize("example", [_alone(digits, "digits")], indirect=True)


def test_the_spec_is_short_and_nothing_else_was_changed(example: Example) -> None:
    spec = example.folder / example.folder.name / "dataset.py"
    assert len(spec.read_text().splitlines()) < 40
    # DVC's own files are new, and to commit.
    new_files = {line[3:] for line in git(example.folder, "status", "--porcelain").splitlines()}
    assert new_files <= {".dvc/", ".dvcignore", "data.dvc"}


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """Run the service of a project; its address."""
    command = [str(BIN / "captcha-assets"), "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found
            wait_until_ready(found[0], process)
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)


def wait_until_ready(address: str, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None:
        with suppress(httpx.TransportError):  # it announces its address before it listens
            if httpx.get(f"{address}/v2/health/ready", timeout=60).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("the service ended")


def test_the_champion_answers_over_http(example: Example) -> None:
    right = 0
    with service(example.folder) as address:
        for label, data in example.files:
            kind = {"Content-Type": "image/png" if data[1:4] == b"PNG" else "image/jpeg"}
            answer = httpx.post(f"{address}/v1/predict", content=data, headers=kind, timeout=60)
            assert answer.status_code == 200, answer.text
            right += answer.json()["predictions"][0]["label"] == label
    assert right >= 0.9 * len(example.files)


def test_the_style_and_the_tests_of_the_project_pass(example: Example) -> None:
    assert "All definitions loaded successfully." in said(example.folder, "make", "lint")
    assert " passed" in said(example.folder, "make", "test")
    rules = str(REPOSITORY / ".yamllint.yaml")
    said(example.folder, "yamllint", "--strict", "-c", rules, "configs", "workspace.yaml", ".github")
    said(example.folder, "hadolint", *map(str, example.folder.glob("dockerfiles/*.Dockerfile")))


@one_project
def test_predict_and_status_know_the_project_from_any_of_its_folders(example: Example) -> None:
    package = example.folder / example.folder.name
    assert re.match(r"serves +resnet18-", said(package, "captcha-assets", "status"))
    label, data = example.files[0]
    (example.folder / "artifacts" / "one.bin").write_bytes(data)
    answer = json.loads(said(package, "captcha-assets", "predict", "../artifacts/one.bin", "--json"))
    assert answer["label"] == label


@one_project
def test_runs_of_dg_are_runs_of_the_project(example: Example) -> None:
    state = example.folder / ".dagster" / "history" / "runs"
    before = set(state.iterdir())
    said(example.folder, "dg", "launch", "--assets", "image_index")
    assert len(set(state.iterdir()) - before) >= 1
    with closing(sqlite3.connect(example.folder / ".dagster" / "history" / "runs.db")) as database:
        ((status,),) = database.execute("SELECT status FROM runs ORDER BY id DESC LIMIT 1")
    assert status == "SUCCESS"


@one_project
def test_the_ui_shows_the_project_and_obeys_the_automation(example: Example) -> None:
    assert "automation: on" in said(example.folder, "captcha-assets", "automation", "on")
    with user_interface(example.folder) as (address, process):
        location, sensors = loaded(address, process)
        assert location == example.folder.name
        assert {sensors[name] for name in ("inbox_sensor", "automation", "retraining")} == {"RUNNING"}
        assert "automation: off" in said(example.folder, "captcha-assets", "automation", "off")
        _, sensors = loaded(address, process)
        assert {sensors[name] for name in ("inbox_sensor", "automation", "retraining")} == {"STOPPED"}


@contextmanager
def user_interface(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run the UI of a project; its address, and its process."""
    port, log = free_port(), folder.parent / "ui.log"
    command = [str(BIN / "captcha-assets"), "ui", "--port", str(port)]
    variables = environment(CAPTCHA_REPORTS_URL=f"http://localhost:{free_port()}")
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=variables, stdout=output, stderr=output) as process,
    ):
        try:
            while "Dagster UI: " not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
            yield f"http://localhost:{port}", process
        finally:
            process.send_signal(signal.SIGINT)


def loaded(address: str, process: "subprocess.Popen[bytes]") -> tuple[str, dict[str, str]]:
    """Return the name of the one code location, and the state of its sensors, once it is loaded."""
    query = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus
        locationOrLoadError { ... on RepositoryLocation {
            repositories { sensors { name sensorState { status } } } } } } } } }"""
    while process.poll() is None:
        (entry,) = ask(address, query)["workspaceOrError"]["locationEntries"]
        if entry["loadStatus"] == "LOADED":
            (repository,) = entry["locationOrLoadError"]["repositories"]
            return entry["name"], {
                sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]
            }
        time.sleep(0.5)
    pytest.fail("the UI ended")


@one_project
def test_a_demo_without_images_is_one_line(example: Example) -> None:
    for images, words in (
        ("", "name a folder or zip of labelled images"),
        ("IMAGES=/nope", "does not exist"),
    ):
        command = ["make", "demo", f"BIN={BIN}", *([images] if images else [])]
        done = subprocess.run(
            command, cwd=example.folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.strip().splitlines()) == 1
        assert words in done.stderr


@one_project
def test_another_home_wins_over_the_project(example: Example, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shown = said(example.folder, "captcha-assets", "automation", "show", CAPTCHA_HOME=str(home))
    assert "automation: off" in shown
    assert (home / ".dagster" / "dagster.yaml").exists()
