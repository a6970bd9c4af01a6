"""Several devices train one model, as one would."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models import folder
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets_tests.training.examples import draw_many, write_splits, write_table
from captcha_assets_tests.training.processes import CONTEXT

SETTINGS = TrainingSettings(epochs=5, batch_size=32, channels=(8, 8, 16, 16), accelerator="cpu")


def train(place: Path, devices: int) -> Path:
    images, labels = draw_many(600, classes=["c", "w", "7"])
    ids = write_table(place / "drawn.parquet", "drawn", images, labels)
    write_splits(place / "splits.parquet", ids, labels, ["drawn"] * len(ids))
    job = TrainingJob(
        tables=(place / "drawn.parquet",),
        splits=place / "splits.parquet",
        splits_version="v1",
        classes=CAPTCHA.classes,
        image_shape=CAPTCHA.shape,
        output=place / f"model{devices}",
        checkpoints=place / f"checkpoints{devices}",
        code_version="c1",
        settings=replace(SETTINGS, devices=devices),
    )
    job.save(place / f"job{devices}.json")
    command = [sys.executable, "-m", "captcha_assets.training", str(place / f"job{devices}.json")]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("training and") == 1, "more than one process told of the training"
    assert not job.checkpoints.exists()
    return job.output


def gradients_of_half(rank: int, meeting: Path, results: Path) -> None:
    """Learn from every second image of a batch, together with another process."""
    import torch
    import torch.distributed as dist

    from captcha_assets.training.together import SharedBatchNorms

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shared = torch.nn.parallel.DistributedDataParallel(SharedBatchNorms().apply(network()))
    learn(shared, slice(rank, None, 2))
    if rank == 0:
        torch.save({name: value.grad for name, value in shared.module.named_parameters()}, results)
        torch.save(dict(SharedBatchNorms().revert(shared.module).named_buffers()), f"{results}.buffers")
    dist.destroy_process_group()


def network():
    import torch

    from captcha_assets.models.network import build

    torch.manual_seed(0)
    return build("resnet18", (4, 4, 8, 8), 5).double().train()


def learn(model, part: slice) -> None:
    import torch

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 1, 52, 32, generator=generator, dtype=torch.float64)[part]
    labels = torch.randint(5, (16,), generator=generator)[part]
    torch.nn.functional.cross_entropy(model(images), labels).backward()


def test_two_processes_learn_from_a_shared_batch_what_one_learns_from_the_whole(tmp_path):
    import torch

    arguments = (tmp_path / "meeting", tmp_path / "results")
    processes = [CONTEXT.Process(target=gradients_of_half, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    alone = network()
    learn(alone, slice(None))
    together, buffers = torch.load(tmp_path / "results"), torch.load(tmp_path / "results.buffers")
    for name, value in alone.named_parameters():
        torch.testing.assert_close(together[name], value.grad, rtol=1e-9, atol=1e-9)
    for name, value in alone.named_buffers():
        torch.testing.assert_close(buffers[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_two_processes_end_where_one_ends(tmp_path):
    alone, together = (train(tmp_path, devices) for devices in (1, 2))
    for one, two in zip(folder.read_history(alone), folder.read_history(together), strict=True):
        # Sums of floats in another order, which training makes more of from step to step.
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)
    one, two = folder.read_metrics(alone), folder.read_metrics(together)
    assert two["validation_accuracy"] == pytest.approx(one["validation_accuracy"], abs=0.02)
    assert two["validation_accuracy"] > 0.9
    assert two["validation_images"] == one["validation_images"]
