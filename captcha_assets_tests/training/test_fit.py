"""Training learns, says what it lacks, and reports its metrics once an epoch."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images import reader
from captcha_assets.models.folder import ModelFolderError, read_config
from captcha_assets.models.predictor import TorchPredictor
from captcha_assets.training.config import TrainingError, TrainingJob, TrainingSettings
from captcha_assets.training.fit import setup, train
from captcha_assets.training.module import one_cycle
from captcha_assets_tests.training.examples import draw_many, job_on, write_batch, write_splits, write_table

read_split = partial(reader.read_split, classes=CAPTCHA.classes, shape=CAPTCHA.shape)

SETTINGS = TrainingSettings(epochs=8, batch_size=16, channels=(8, 8, 16, 16), accelerator="cpu")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """A batch of three characters that are easily reported apart."""
    folder = tmp_path_factory.mktemp("batch")
    images, labels = draw_many(400, classes=["c", "w", "7"])
    ids = write_table(folder / "drawn.parquet", "drawn", images, labels)
    write_splits(folder / "splits.parquet", ids, labels, ["drawn"] * len(ids))
    return [folder / "drawn.parquet"], folder / "splits.parquet"


def job_in(place, batch, **settings) -> TrainingJob:
    return job_on(batch, place, SETTINGS.replaced(**settings))


@pytest.fixture(scope="module")
def trained(batch, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    reported: list[str] = []
    return place / "model", train(job_in(place, batch), reported.append), reported


def test_a_training_learns_to_tell_characters_apart(trained, batch):
    model, result, _ = trained
    test = read_split(*batch, "test")
    answers = TorchPredictor(model).predict(test.pixels).argmax(1)
    assert (answers == test.labels).mean() > 0.95
    assert result.metrics["validation_accuracy"] > 0.95


def test_every_epoch_is_reported_in_one_line(trained):
    lines = [line for line in trained[2] if line.startswith("epoch ")]
    assert len(lines) == SETTINGS.epochs
    assert all("validation accuracy" in line and "images/s" in line for line in lines)


def test_the_sample_is_what_is_trained_on(batch, tmp_path):
    ready = setup(job_in(tmp_path, batch, sample_size=100), print)
    images = read_split(*batch, "train", sample_size=100)
    assert torch.equal(ready.data.train.images.pixels[:, 0], torch.from_numpy(images.pixels))


def test_every_layer_is_trained(batch, tmp_path):
    ready = setup(job_in(tmp_path, batch), print)
    assert all(parameter.requires_grad for parameter in ready.module.network.parameters())


def test_norms_and_biases_do_not_decay(batch, tmp_path):
    ready = setup(job_in(tmp_path, batch, epochs=1), print)
    ready.trainer.fit(ready.module, datamodule=ready.data)
    decay = {
        id(parameter): group["weight_decay"]
        for group in ready.trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }
    for parameter in ready.module.network.parameters():
        assert decay[id(parameter)] == (0 if parameter.ndim <= 1 else SETTINGS.weight_decay)


def test_an_empty_split_is_named(batch, tmp_path):
    tables, splits = batch
    table = pq.read_table(splits)
    only = pa.array(["train"] * len(table), pa.string())
    pq.write_table(table.set_column(3, "split", only), tmp_path / "splits.parquet")
    with pytest.raises(TrainingError, match=r"the validation split has 0 images .* add batches"):
        train(job_in(tmp_path, (tables, tmp_path / "splits.parquet")))


def test_tables_that_lack_images_of_the_splits_are_named(batch, tmp_path):
    _, splits = batch
    images, labels = draw_many(3)
    write_table(tmp_path / "other.parquet", "drawn", images, labels)
    with pytest.raises(TrainingError, match=r"images of .* are in none of the 1 image tables"):
        train(job_in(tmp_path, ([tmp_path / "other.parquet"], splits)))


def test_fewer_images_than_a_mini_batch_are_one_mini_batch(tmp_path):
    small = write_batch(tmp_path, 200)
    ready = setup(job_in(tmp_path, small, batch_size=256, epochs=1), print)
    ready.trainer.fit(ready.module, datamodule=ready.data)
    assert ready.module.history[-1]["train_loss"] > 0
    assert ready.trainer.global_step == 1


def test_the_schedule_fits_any_number_of_steps_and_ends_low():
    for steps in (*range(1, 13), 20, 40):
        for warmup in (0.0, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5):
            settings = SETTINGS.replaced(warmup=warmup)
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], settings.learning_rate)
            schedule, rates = one_cycle(optimizer, settings, steps), []
            for _ in range(steps):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
            assert all(0 < rate <= settings.learning_rate for rate in rates)
            assert max(rates) > settings.learning_rate / 5, "nothing would be learnt"
            assert steps == 1 or rates[-1] < settings.learning_rate / 1000


def test_each_training_step_is_one_optimizer_step_and_returns_the_loss(batch, tmp_path):
    ready = setup(job_in(tmp_path, batch, epochs=2), print)
    ready.trainer.fit(ready.module, datamodule=ready.data)
    steps = 2 * (len(ready.data.train) // SETTINGS.batch_size)
    assert ready.module.automatic_optimization
    assert ready.trainer.global_step == ready.trainer.estimated_stepping_batches == steps
    images = torch.zeros(4, 1, 52, 32)
    assert ready.module.training_step((images, torch.zeros(4, dtype=torch.int64)), 0).requires_grad


def test_the_metrics_are_the_means_over_the_whole_split(trained, batch):
    model, result, _ = trained
    validation = read_split(*batch, "validation")
    probabilities = TorchPredictor(model).predict(validation.pixels)
    right = (probabilities.argmax(1) == validation.labels).mean()
    loss = -np.log(probabilities[np.arange(len(validation)), validation.labels]).mean()
    assert result.metrics["validation_accuracy"] == pytest.approx(right)
    assert result.metrics["validation_loss"] == pytest.approx(loss, rel=1e-3)
    assert read_config(model).temperature == result.metrics["temperature"]


def test_a_damaged_checkpoint_is_found_out_and_not_used(batch, tmp_path):
    ready = setup(job_in(tmp_path, batch, epochs=1), print)
    ready.trainer.fit(ready.module, datamodule=ready.data)
    last = ready.job.checkpoints / "last.ckpt"
    content = bytearray(last.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 256)  # longer than the padding of a zip member
    content[middle] = bytes(byte ^ 1 for byte in content[middle])
    last.write_bytes(content)
    reported: list[str] = []
    assert train(ready.job, reported.append)
    assert any("last.ckpt is damaged: starting from the first epoch" in line for line in reported)


def test_a_finished_model_is_not_there_before_it_is_complete(batch, tmp_path):
    job = job_in(tmp_path, batch)
    setup(job, print)
    assert not job.output.exists()
    with pytest.raises(ModelFolderError, match=r"config\.json is missing"):
        read_config(job.output)
