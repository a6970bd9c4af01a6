"""A served prediction leads to its model and to the model that learned from its correction, and back."""

import json
import zipfile
from pathlib import Path

import pytest
import xxhash
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.dataset import CAPTCHA
from captcha_assets.models import registry
from captcha_assets.models.lineage import LineageError, Node, trace
from captcha_assets.paths import Paths
from captcha_assets.served_predictions import daily_tables
from captcha_assets.served_predictions.lineage import prediction as find_prediction
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.settings import Settings
from captcha_assets.sources import correction_batches, synthetic_batches
from captcha_assets_tests.models.traced import deliver, train
from captcha_assets_tests.serving.predictions import prediction

DAY, BATCH = "2026-11-28", "corrections-2026-11-28"


def found(nodes: tuple[Node, ...], kind: str) -> list[Node]:
    """All nodes of one kind, at any depth."""
    return [
        one for node in nodes for one in [*([node] if node.kind == kind else []), *found(node.nodes, kind)]
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A model that served, corrections of what it said, and a model that learned from them."""
    settings = Settings(paths=Paths(home=tmp_path_factory.mktemp("served") / "home"))
    deliver(settings, "first", "synthetic:80:1")
    first = train(settings, ["first"])
    registry.promote(settings.paths.models, first, "the first model")
    url = f"sqlite:///{settings.paths.home}/.serving/predictions.db"
    synthetic_batches.write_archive(settings.paths.scratch / "served.zip", 20, seed=5)
    with zipfile.ZipFile(settings.paths.scratch / "served.zip") as archive, open_prediction_log(url) as log:
        for number, name in enumerate(sorted(archive.namelist())):
            image = archive.read(name)
            changes = {"image": image, "image_hash": xxhash.xxh3_128_hexdigest(image), "model_version": first}
            log.record(prediction(number, **changes))
        log.record(prediction(90, model_version="removed"))
        log.correct("id-3", "a", "ann")
        log.correct("id-3", "b", "bob")
        log.correct("id-4", "c")
    paths = settings.paths
    daily_tables.write_day(url, DAY, paths.prediction_log(DAY), paths.rejected_predictions(DAY))
    made = correction_batches.write_archive(
        settings.paths.prediction_log(DAY), settings.paths.corrections(DAY), CAPTCHA
    )
    daily_tables.record_batch(url, made.correction_ids, BATCH)
    deliver(settings, BATCH, str(settings.paths.corrections(DAY)))
    train(settings, ["first", BATCH], seed=1)
    with open_prediction_log(url) as log:
        log.correct("id-5", "d")
    return settings.paths


@pytest.fixture(autouse=True)
def _in_this_home(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", str(home.home))


def test_a_prediction_leads_to_its_model_and_to_the_archives_behind_it(home: Paths) -> None:
    seen = trace(home, "id-3", find_prediction)
    (model,) = seen.derived_from
    assert (model.kind, model.id) == ("model", registry.champion(home.models).model_id)
    (batch,) = found(model.nodes, "batch")
    assert batch.id == "first"
    assert len(batch.facts["archive_sha256"]) == 64
    assert found(model.nodes, "training run")[0].id == "run-0"


def test_a_correction_leads_to_its_image_and_to_the_model_that_learned_from_it(home: Paths) -> None:
    early, late = trace(home, "id-3", find_prediction).used_for
    assert early.facts["state"] == f"superseded by {late.id}"
    assert early.nodes == ()
    assert (late.facts["label"], late.facts["annotator"]) == ("b", "bob")
    (batch,) = late.nodes
    (image,) = batch.nodes
    assert (batch.id, image.facts["label_there"]) == (BATCH, "b")
    saw = {model.facts["this_image"] for model in image.nodes}
    assert len(image.nodes) == 2
    assert "not there when it was trained" in saw

    back = trace(home, image.id)
    (prediction_node,) = found(back.derived_from, "prediction")
    assert prediction_node.id == "id-3"
    assert prediction_node.facts["corrected_label"] == "b"


def test_a_correction_that_waits_says_so(home: Paths) -> None:
    (waiting,) = trace(home, "id-5", find_prediction).used_for
    assert waiting.facts["state"] == "in no batch yet"


def test_a_model_that_is_gone_is_named(home: Paths) -> None:
    (model,) = trace(home, "id-90", find_prediction).derived_from
    assert (model.id, model.facts["today"]) == ("removed", "not in the registry")


def test_the_command_traces_predictions(home: Paths) -> None:
    done = CliRunner().invoke(main, ["lineage", "id-3", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["what"]["kind"] == "prediction"


def test_an_unknown_name_is_no_prediction_either(home: Paths, tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="no image and no served prediction"):
        trace(home, "nobody", find_prediction)
    empty = Paths(home=tmp_path / "empty")
    with pytest.raises(LineageError, match="no served prediction"):
        trace(empty, "id-3", find_prediction)
    assert not empty.home.exists()
