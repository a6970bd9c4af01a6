"""`captcha-assets model test`: a staged model is compared with the champion, and nothing is changed."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import pytest
import yaml
from upath import UPath

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.models import onnx_export, registry
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import made_once
from captcha_assets_tests.models.conftest import make_model
from captcha_assets_tests.models.trained import drawn, trained

#: The models of the tests are trained for seconds: they are less calibrated than one that serves.
LOOSE = {"CAPTCHA_PROMOTION_CALIBRATION_ERROR": "0.5"}


def png_files(count: int, seed: int) -> dict[str, bytes]:
    """Return drawn characters as PNG files, by their names."""
    images, labels = drawn(count, seed)
    names = (f"{CAPTCHA.classes[label]}_{number}.png" for number, label in enumerate(labels))
    return {name: cv2.imencode(".png", image)[1].tobytes() for name, image in zip(names, images, strict=True)}


def split(paths: Paths, archive: Path) -> None:
    """Take an archive through to the splits."""
    table = paths.image_table("first")
    build_image_table(archive, "first", table, paths.rejected_images("first"), CAPTCHA)
    build_image_index({"first": table}, paths.image_index, CAPTCHA)
    record = AssignmentRecord(paths.split_assignments, paths.scratch)
    update_splits(paths.image_index, paths.splits, record, CAPTCHA, paths.image_table)


def make_home(home: Path) -> None:
    """Make a home with splits and two exported models: one that has learned, and one that has not."""
    paths = Paths(home=home)
    paths.raw.mkdir(parents=True)
    with zipfile.ZipFile(paths.raw / "first.zip", "w") as archive:
        for name, data in png_files(900, seed=3).items():
            archive.writestr(name, data)
    split(paths, paths.raw / "first.zip")
    learned = registry.add_candidate(paths.models, home / "trained" / "model")
    shutil.copytree(home / "trained" / "onnx", paths.onnx_model(learned))
    make_model(home / "trained" / "unlearned", seed=1)
    unlearned = registry.add_candidate(paths.models, home / "trained" / "unlearned")
    onnx_export.export(home / "trained" / "unlearned", paths.onnx_model(unlearned), drawn(40, seed=1)[0])
    shutil.rmtree(home / "trained")
    (home / "names.json").write_text(json.dumps({"learned": learned, "unlearned": unlearned}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home, to be copied."""
    model = trained(tmp_path_factory)

    def make(home: Path) -> None:
        shutil.copytree(model, home / "trained")
        make_home(home)

    return made_once(tmp_path_factory, "staged", make)


class Staged:
    """A copy of the home, one model of which is the champion and the other the candidate."""

    def __init__(self, made: Path, home: Path, champion: str | None) -> None:
        shutil.copytree(made, home)
        self.home, self.paths = home, Paths(home=home)
        self.names = json.loads((home / "names.json").read_text())
        other = {"learned": "unlearned", "unlearned": "learned", None: "learned"}[champion]
        self.candidate = self.names[other]
        registry.make_candidate(self.paths.models, self.candidate)
        if champion:
            registry.promote(self.paths.models, self.names[champion], "for the test")

    def fails(self, *arguments: str, **environment: str) -> str:
        """Run the test, which must fail, and return the one line that says why."""
        done = run(self.home, "model", "test", *arguments, **{**LOOSE, **environment})
        assert done.returncode == 1, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        return line

    def files(self) -> dict[str, bytes]:
        """Return all that is recorded and stored."""
        return {
            str(file.relative_to(self.home)): file.read_bytes()
            for file in sorted(self.paths.models.parent.rglob("*"))
            if file.is_file()
        }


@pytest.fixture
def better(made: Path, tmp_path: Path) -> Staged:
    """The candidate has learned, the champion has not."""
    return Staged(made, tmp_path / "home", "unlearned")


@pytest.fixture
def worse(made: Path, tmp_path: Path) -> Staged:
    """The champion has learned, the candidate has not."""
    return Staged(made, tmp_path / "home", "learned")


def test_a_better_model_passes_and_nothing_is_changed(better: Staged) -> None:
    before = better.files()
    said = succeeded(better.home, "model", "test", better.candidate, **LOOSE)
    assert f"model     {better.candidate}" in said
    assert f"champion  {better.names['unlearned']}" in said
    for name in ("above_chance", "non_inferiority", "class_recall", "calibration", "onnx_parity", "latency"):
        assert f"met       {name}: " in said
    assert better.files() == before


def test_as_json_it_says_the_same(better: Staged) -> None:
    found = json.loads(succeeded(better.home, "model", "test", "--json", **LOOSE))
    assert found["passed"]
    assert found["model_id"] == better.candidate
    assert found["accuracy"] > found["champion_accuracy"]
    assert found["images"] == pytest.approx(90, abs=20)
    assert all(one["passed"] for one in found["criteria"])


def test_the_first_model_is_compared_with_none(made: Path, tmp_path: Path) -> None:
    staged = Staged(made, tmp_path / "home", None)
    said = succeeded(staged.home, "model", "test", "candidate")
    assert "champion  none" in said
    assert "onnx_parity" in said


def test_a_first_model_that_is_no_better_than_guessing_fails_with_one_line(
    made: Path, tmp_path: Path
) -> None:
    staged = Staged(made, tmp_path / "home", None)
    line = staged.fails(staged.names["unlearned"])
    assert "is not ready to serve: no better than guessing: it reads " in line


def test_where_the_record_of_what_serves_is_lost_no_model_passes_as_the_first(
    made: Path, tmp_path: Path
) -> None:
    staged = Staged(made, tmp_path / "home", "unlearned")
    shutil.rmtree(staged.paths.models / "history")
    line = staged.fails("candidate")
    assert line.startswith(f"Error: {staged.paths.models / 'history' / '000001.json'} is missing")
    assert "restore it from a backup" in line


def test_a_less_accurate_model_fails_with_one_line(worse: Staged) -> None:
    line = worse.fails(worse.candidate)
    assert line.startswith(f"Error: {worse.candidate} is not ready to serve: accuracy ")
    assert "a loss of more than 0.50 points is certain" in line


def test_a_model_that_is_too_slow_fails_with_one_line(better: Staged) -> None:
    line = better.fails(better.candidate, "--latency", "0.001")
    assert line.startswith(f"Error: {better.candidate} is not ready to serve: ")
    assert "ms for one image, 0.001 ms are allowed" in line


def test_an_unknown_version_fails_with_one_line(better: Staged) -> None:
    line = better.fails("resnet18-000000000000")
    assert "'resnet18-000000000000' is no folder and no model; known are: " in line
    assert better.candidate in line


def test_the_champion_is_not_tested_against_itself(better: Staged) -> None:
    assert "is the champion, which serves already: train another model" in better.fails(
        better.names["unlearned"]
    )


@pytest.mark.parametrize("export", [True, False], ids=["the export", "the model"])
def test_a_damaged_file_fails_with_one_line(better: Staged, export: bool) -> None:
    folder = better.paths.onnx_model(better.candidate) if export else better.paths.models / better.candidate
    file = folder / ("model.onnx" if export else "model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    line = better.fails(better.candidate)
    assert f"{file.name}" in line
    advice = f"captcha-assets model export {better.candidate}" if export else "restore the folder"
    assert advice in line


def test_a_model_that_is_not_exported_fails_with_one_line(better: Staged) -> None:
    shutil.rmtree(better.paths.onnx_model(better.candidate))
    assert f"captcha-assets model export {better.candidate}" in better.fails(better.candidate)


def labelled(folder: Path) -> Path:
    """Write labelled images that no model was trained on."""
    folder.mkdir()
    for name, data in png_files(200, seed=9).items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_labelled_images_takes_the_place_of_the_test_split(
    better: Staged, tmp_path: Path
) -> None:
    shutil.rmtree(better.paths.splits)
    images = labelled(tmp_path / "golden")
    found = json.loads(succeeded(better.home, "model", "test", "--images", str(images), "--json", **LOOSE))
    assert (found["passed"], found["images"]) == (True, 200)


def test_a_labelled_image_that_cannot_be_used_fails_with_one_line(better: Staged, tmp_path: Path) -> None:
    images = labelled(tmp_path / "golden")
    (images / "a_900.png").write_bytes(b"no image")
    assert f"{images / 'a_900.png'} cannot be used: " in better.fails("--images", str(images))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} holds no labelled images" in better.fails("--images", str(empty))


def test_without_a_test_split_it_says_what_to_materialize(better: Staged) -> None:
    shutil.rmtree(better.paths.splits)
    assert "splits" in better.fails(better.candidate)


def workflow_step() -> str:
    """Return the script of the workflow that fetches and tests a model."""
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "model.yaml").read_text())
    return workflow["jobs"]["test"]["steps"][-1]["run"]


@pytest.mark.slow
@pytest.mark.parametrize(("latency", "status"), [("1000", 0), ("0.001", 1)])
def test_the_workflow_tests_a_model_of_the_object_store(
    better: Staged, bucket: UPath, tmp_path: Path, latency: str, status: int
) -> None:
    store = bucket / "artifacts"
    store.fs.put(str(better.paths.models.parent), store.path, recursive=True)
    checkout, summary = tmp_path / "checkout", tmp_path / "summary.md"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(Path(sys.executable).parents[1])
    given = {"LATENCY": latency, "MODEL": better.candidate, "FOUND": str(tmp_path / "found.txt")}
    places = {"CAPTCHA_ARTIFACTS": str(store), "CAPTCHA_HOME": str(checkout)}
    environment = os.environ | LOOSE | given | places | {"GITHUB_STEP_SUMMARY": str(summary)}
    before = sorted(store.fs.find(store.path))
    script = ["bash", "-e", "-c", workflow_step()]
    done = subprocess.run(script, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert f"model     {better.candidate}" in summary.read_text()
    assert ("is not ready to serve" in summary.read_text()) == bool(status)
    assert sorted(store.fs.find(store.path)) == before
