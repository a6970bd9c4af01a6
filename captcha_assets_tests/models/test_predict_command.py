"""`captcha-assets predict` as a user types it: what cannot be read gets a line, the rest is read."""

import json
import os
import shutil
from pathlib import Path

from PIL import Image

from captcha_assets.models import registry
from captcha_assets.models.manifest import writing_folder
from captcha_assets.paths import Paths
from captcha_assets.stored_outputs import Output, StoredVersions
from captcha_assets_tests.commands import run
from captcha_assets_tests.models.conftest import make_model
from captcha_assets_tests.training.examples import draw_many


def test_a_folder_is_read_past_broken_links_and_folders_that_are_called_png(
    models: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    (folder / "b.png").mkdir(parents=True)
    (folder / "a.png").symlink_to("nowhere.png")
    (folder / "c.png").write_bytes(b"no image")
    Image.fromarray(draw_many(1)[0][0]).save(folder / "d.png")
    os.mkfifo(folder / "e.png")
    (folder / "readme.txt").write_text("not an image")
    done = run(tmp_path / "home", "predict", str(folder), "--model", str(models[0]), "--json")
    assert done.returncode == 1
    assert [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()] == ["d.png"]
    said = done.stderr.splitlines()
    assert said.pop(0) == f"{folder}: 1 file skipped, not named *.png"
    assert said[0] == f"{folder / 'a.png'}: a broken link to nowhere.png"
    assert said[1] == f"{folder / 'b.png'}: a folder, not an image"
    assert said[2].startswith(f"{folder / 'c.png'}: ")
    assert said[3] == f"{folder / 'e.png'}: no file that holds an image"
    assert said[4:] == [
        "Error: 4 of 5 files could not be used; the first: a.png: a broken link to nowhere.png"
    ]


def test_an_empty_folder_is_an_error_and_not_silence(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    done = run(tmp_path / "home", "predict", str(tmp_path / "images"), "--model", str(models[0]))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path / 'images'} holds no PNG files" in line


def test_the_export_of_another_model_never_answers_and_is_named(tmp_path: Path) -> None:
    paths = Paths(home=tmp_path / "home")
    make_model(tmp_path / "model")
    model_id = registry.add_candidate(paths.models, tmp_path / "model")
    with writing_folder(paths.onnx_model(model_id), model_id="resnet18-000000000000") as folder:
        (folder / "model.onnx").write_bytes(b"of another model")
    Image.fromarray(draw_many(1)[0][0]).save(tmp_path / "a.png")
    done = run(paths.home, "predict", str(tmp_path / "a.png"), "--model", "candidate")
    assert (done.returncode, done.stdout) == (1, "")
    holds = f"{paths.onnx_model(model_id)} holds the export of resnet18-000000000000"
    assert done.stderr == f"Error: {holds}: export the model again: captcha-assets model export {model_id}\n"
    assert StoredVersions(paths).look(Output("onnx_model", model=model_id)).problem == f"damaged: {holds}"


def test_a_folder_that_holds_another_model_is_not_shown_as_the_model_of_its_name(
    models: list[Path], tmp_path: Path
) -> None:
    place = Paths(home=tmp_path).models
    one, two = (registry.add_candidate(place, model) for model in models[:2])
    shutil.rmtree(place / one)
    shutil.copytree(place / two, place / one)
    shown = run(tmp_path, "model", "show", one)
    assert shown.returncode == 1
    assert f"{place / one} holds the model {two}: restore the folder" in shown.stderr
    listed = [json.loads(line) for line in run(tmp_path, "model", "list", "--json").stdout.splitlines()]
    assert {row["model"]: row["test accuracy"] for row in listed} == {
        one: f"damaged: captcha-assets model show {one}",
        two: None,
    }


def test_a_reason_in_brackets_is_shown_as_it_was_written(models: list[Path], tmp_path: Path) -> None:
    place = Paths(home=tmp_path).models
    reason = "see [/docs] and [bold] :bug:"
    registry.promote(place, registry.add_candidate(place, models[0]), reason)
    listed = run(tmp_path, "model", "history")
    assert (listed.returncode, reason in listed.stdout) == (0, True)


def test_of_a_champion_that_lost_its_folder_and_its_export_the_folder_comes_back_first(
    models: list[Path], tmp_path: Path
) -> None:
    place = Paths(home=tmp_path).models
    model = registry.add_candidate(place, models[0])
    registry.promote(place, model, "the first")
    shutil.rmtree(place / model)
    assert "restore its folder from a backup" in run(tmp_path, "status").stdout
