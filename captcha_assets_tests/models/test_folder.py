"""The model folder explains itself, and nothing damaged or foreign is ever loaded from it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.models import folder
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.models.manifest import writing_folder
from captcha_assets_tests.models.conftest import make_model


@pytest.fixture
def model(models, tmp_path):
    """A model folder of one's own, to damage."""
    return shutil.copytree(models[0], tmp_path / "model")


def test_a_folder_explains_itself_in_a_fresh_interpreter_and_is_never_unpickled(models, tmp_path):
    shutil.copytree(models[0], tmp_path / "elsewhere" / "model")
    code = """
import sys
from pathlib import Path
from captcha_assets.models import folder, network

def forbid(event, arguments):
    if event == "pickle.find_class":
        sys.exit("something was unpickled")

sys.addaudithook(forbid)
loaded = folder.load(Path("model"))
import torch
logits = loaded.model(torch.zeros(2, 1, *loaded.config.input_size))
print(tuple(logits.shape), loaded.model.training, "".join(loaded.config.classes), loaded.config.temperature)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CAPTCHA_HOME": "/nowhere"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["(2,", "20)", "False", "2345678abcdefgmnpwxy", "1.5"]


def test_what_is_saved_is_what_is_loaded(models, tmp_path):
    loaded = folder.load(models[1])
    again = folder.save(
        tmp_path / "again",
        loaded.model,
        loaded.config,
        folder.read_history(models[1]),
        folder.read_metrics(models[1]),
    )
    assert again == folder.model_id(models[1])
    for file in models[1].iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_an_id_follows_from_weights_and_configuration_but_not_from_provenance(tmp_path):
    ids = {
        "same": make_model(tmp_path / "a"),
        "provenance": make_model(tmp_path / "b", provenance={"run_id": "r7"}),
        "seed": make_model(tmp_path / "c", seed=1),
        "splits": make_model(tmp_path / "d", splits_version="v2"),
        "temperature": make_model(tmp_path / "e", temperature=2.0),
    }
    assert ids["provenance"] == ids["same"]
    assert len(set(ids.values())) == 4
    assert all(name.startswith("resnet18-") and len(name) == 21 for name in ids.values())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "history.json", "metrics.json"])
def test_a_missing_or_damaged_file_is_named(model, name):
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"{name} is damaged"):
        folder.load(model)
    (model / name).unlink()
    with pytest.raises(ModelFolderError, match=rf"{name} is missing"):
        folder.load(model)


@settings(max_examples=30)
@given(st.data())
def test_no_changed_byte_goes_unnoticed(models, tmp_path_factory, data):
    place = shutil.copytree(models[0], tmp_path_factory.mktemp("changed") / "model")
    name = data.draw(st.sampled_from(sorted(file.name for file in place.iterdir())))
    content = bytearray((place / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (place / name).write_bytes(content)
    try:
        before = json.loads((models[0] / name).read_text()) if name == "manifest.json" else None
        same = before is not None and json.loads(content) == before
    except ValueError:
        same = False
    if not same:
        with pytest.raises(ModelFolderError, match=r"model|manifest"):
            folder.verify(place)


def test_a_folder_without_a_manifest_is_no_model(model, tmp_path):
    (model / "manifest.json").unlink()
    with pytest.raises(ModelFolderError, match=r"manifest\.json is missing: .* no complete model folder"):
        folder.load(model)
    with pytest.raises(ModelFolderError, match="is missing"):
        folder.load(tmp_path / "nowhere")


def test_a_manifest_made_for_changed_files_does_not_pass_as_the_model_it_was(models, tmp_path):
    with writing_folder(tmp_path / "forged", model_id=folder.model_id(models[0])) as part:
        for file in models[1].iterdir():
            if file.name != "manifest.json":
                shutil.copy(file, part)
    with pytest.raises(ModelFolderError, match="does not name the model"):
        folder.verify(tmp_path / "forged")


def test_weights_that_do_not_fit_are_rejected(models, tmp_path):
    loaded = folder.load(models[0])
    config = vars(loaded.config) | {"channels": (4, 4, 8, 16)}
    folder.save(tmp_path / "odd", loaded.model, folder.ModelConfig(**config), [], {})
    with pytest.raises(ModelFolderError, match=r"model\.safetensors does not fit"):
        folder.load(tmp_path / "odd")


def test_a_configuration_of_another_kind_is_rejected(model):
    (model / "config.json").write_text(json.dumps({"classes": ["a"]}))
    with pytest.raises(ModelFolderError, match=r"not a model's configuration .*architecture"):
        folder.read_config(model)


def test_a_folder_is_complete_or_absent(models, tmp_path):
    target = tmp_path / "model"

    def write_half() -> None:
        with writing_folder(target) as part:
            (part / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []
    make_model(target)
    before = {file.name: file.read_bytes() for file in target.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_the_weights_are_of_every_layer(models):
    network = folder.load(models[0]).model
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    assert network.conv1.weight.shape[1] == 1


def test_a_configuration_of_before_rgb_is_of_gray_images(model):
    config = json.loads((model / "config.json").read_text())
    del config["input_channels"]
    (model / "config.json").write_text(json.dumps(config))
    read = folder.read_config(model)
    assert (read.input_channels, read.image_shape) == (1, (52, 32))
