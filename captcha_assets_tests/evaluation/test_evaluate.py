"""An evaluation from model folder to report, with a real (untrained, narrow) model."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.evaluation.evaluate import EvaluationError, evaluate
from captcha_assets.evaluation.metrics import compute_metrics
from captcha_assets.images import reader
from captcha_assets.models.folder import ModelConfig, ModelFolderError, save
from captcha_assets.models.manifest import verify_files
from captcha_assets.models.predictor import TorchPredictor
from captcha_assets_tests.training.examples import write_batch

read_split = partial(reader.read_split, classes=CAPTCHA.classes, shape=CAPTCHA.shape)

HISTORY = [
    {"epoch": 0, "train_loss": 2.1, "validation_loss": 1.4, "validation_accuracy": 0.6},
    {"epoch": 1, "train_loss": 1.1, "validation_loss": 0.7, "validation_accuracy": 0.9},
]


def write_model(folder, seed, history=HISTORY):
    import torch

    from captcha_assets.models.network import build

    torch.manual_seed(seed)
    network = build("resnet18", (8, 8, 8, 8), len(CAPTCHA.classes))
    config = ModelConfig(
        architecture="resnet18",
        channels=(8, 8, 8, 8),
        classes=CAPTCHA.classes,
        input_size=(52, 32),
        mean=0.5,
        std=0.25,
        temperature=1.0,
        seed=seed,
        splits_version="splits-of-the-training",
        code_version="1",
        settings={"epochs": 2},
        provenance={"run_id": "run-1"},
    )
    save(folder, network, config, history, {})
    return folder


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return write_batch(tmp_path_factory.mktemp("batch"), 400)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "model", 0)


@pytest.fixture(scope="module")
def evaluated(model, batch, tmp_path_factory):
    target = tmp_path_factory.mktemp("evaluation") / "model"
    return evaluate(model, *batch, target, splits_version="splits-of-today"), target


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_model_is_measured_on_the_images_of_the_test_split_and_on_no_other(evaluated, model, batch):
    evaluation, _ = evaluated
    images = read_split(*batch, "test")
    probabilities = TorchPredictor(model).predict(images.pixels)
    expected = compute_metrics(probabilities, images.labels, CAPTCHA.classes)
    assert evaluation.metrics.to_dict() == expected.to_dict()
    assert evaluation.predictions["image_id"].to_list() == images.image_ids.tolist()


def test_the_folder_holds_the_figures_the_predictions_the_plots_and_the_report(evaluated):
    evaluation, target = evaluated
    assert set(contents(target)) == {
        "metrics.json", "predictions.parquet", "report.html", "manifest.json", "confusion_matrix.png",
        "per_class.png", "calibration.png", "mistakes.png", "training_curves.png",
    }  # fmt: skip
    assert evaluation.report == target / "report.html"
    for name, png in evaluation.plot_images.items():
        assert (target / f"{name}.png").read_bytes() == png
    figures = json.loads((target / "metrics.json").read_text())
    assert figures["model_id"] == evaluation.model_id
    assert figures["splits_version"] == "splits-of-today"
    assert figures["accuracy"] == pytest.approx(evaluation.metrics.accuracy, abs=1e-6)


def test_every_prediction_leads_back_to_its_image_and_batch(evaluated, batch):
    _, target = evaluated
    predictions = pl.read_parquet(target / "predictions.parquet")
    assert predictions.columns == ["image_id", "label", "predicted", "probability", "split", "batch"]
    in_test = pl.read_parquet(batch[1]).filter(pl.col("split") == "test").sort("image_id")
    assert predictions.select("image_id", "label", "split", "batch").equals(
        in_test.select("image_id", "label", "split", "batch")
    )
    assert predictions["predicted"].is_in(list(CAPTCHA.classes)).all()
    assert predictions["probability"].is_between(1 / len(CAPTCHA.classes), 1).all()


def test_the_report_tells_of_the_model_and_its_data(evaluated):
    evaluation, target = evaluated
    page = (target / "report.html").read_text()
    facts = (evaluation.model_id, "splits-of-the-training", "splits-of-today", "epochs", "run-1", "drawn")
    assert all(word in page for word in facts)


def test_a_damaged_evaluation_can_be_told_from_a_whole_one(evaluated):
    _, target = evaluated
    assert set(verify_files(target)["files"]) == set(contents(target)) - {"manifest.json"}


def test_the_same_model_on_the_same_images_gives_the_same_bytes(evaluated, model, batch, tmp_path):
    evaluation, target = evaluated
    again = evaluate(model, *batch, tmp_path / "again", splits_version="splits-of-today")
    assert again.version == evaluation.version
    assert contents(tmp_path / "again") == contents(target)


def test_the_version_follows_what_was_found_and_not_where_it_is_written(evaluated, batch, tmp_path):
    evaluation, _ = evaluated
    other = evaluate(write_model(tmp_path / "other", 1), *batch, tmp_path / "evaluation")
    assert other.version != evaluation.version
    assert other.model_id != evaluation.model_id


def test_a_model_without_a_history_is_measured_all_the_same(batch, tmp_path):
    found = evaluate(write_model(tmp_path / "model", 0, history=[]), *batch, tmp_path / "evaluation")
    assert "training_curves" not in found.plot_images
    assert not (tmp_path / "evaluation" / "training_curves.png").exists()


def test_an_empty_split_is_rejected_and_what_was_measured_before_stays(evaluated, model, batch, tmp_path):
    _, target = evaluated
    before = contents(target)
    tables, splits = batch
    empty = tmp_path / "splits.parquet"
    pl.read_parquet(splits).filter(pl.col("split") != "test").write_parquet(empty)
    with pytest.raises(EvaluationError, match=r"test split .* has no images.*add a batch"):
        evaluate(model, tables, empty, target)
    assert contents(target) == before


def test_a_damaged_model_is_never_measured(model, batch, tmp_path):
    damaged = tmp_path / "model"
    damaged.mkdir()
    for name, content in contents(model).items():
        (damaged / name).write_bytes(content)
    (damaged / "config.json").write_text((damaged / "config.json").read_text().replace("0.5", "0.4"))
    with pytest.raises(ModelFolderError, match="damaged"):
        evaluate(damaged, *batch, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_an_evaluation_is_written_to_an_object_store_too(evaluated, model, batch, bucket):
    evaluation, target = evaluated
    place = bucket / "evaluation" / "model"
    stored = evaluate(model, *batch, place, splits_version="splits-of-today")
    assert stored.version == evaluation.version
    assert {file.name: file.read_bytes() for file in place.iterdir()} == contents(target)
    assert stored.report.read_bytes() == (target / "report.html").read_bytes()


def test_loading_the_module_imports_no_torch():
    code = "import sys, captcha_assets.evaluation.evaluate; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_characters_can_be_measured(model, shared_data, tmp_path):
    """Three images of the data set that the platform is made for, through the same door."""
    import cv2

    from captcha_assets_tests.training.examples import write_splits, write_table

    files = sorted(Path(shared_data, "kaggle_samples").glob("*.png"))
    images = np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files])
    labels = [CAPTCHA.label_of(file.name) for file in files]
    ids = write_table(tmp_path / "real.parquet", "real", images, labels)
    write_splits(tmp_path / "splits.parquet", ids, labels, ["real"] * len(ids))
    found = evaluate(model, [tmp_path / "real.parquet"], tmp_path / "splits.parquet", tmp_path / "e", "train")
    assert found.metrics.n == 3
    assert set(found.metrics.missing) == set(CAPTCHA.classes) - set(labels)
