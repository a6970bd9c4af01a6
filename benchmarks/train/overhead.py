"""Lightning's overhead: the same network, data, loss, optimizer and metrics in a bare PyTorch loop.

On a CPU the steps run in one thread and are measured in CPU time, which other processes disturb less.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.results import Recording
from benchmarks.train.common import (
    DEVICE,
    characters,
    conditions,
    met_or_missed,
    network,
    now,
    tensors,
    train,
    train_images,
)
from captcha_assets.dataset import CAPTCHA
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import TrainImages, TrainLoader, TrainSampler
from captcha_assets.training.trainer import SplitData

SETTINGS = TrainingSettings(epochs=3, batch_size=64, learning_rate=1e-3, precision="32-true")

#: Steps of an epoch of the linear layer.
STEPS = 256


class NoAugmentation(Augmentation):
    """Returns the images as they are."""

    def __call__(self, images: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return images


def linear() -> nn.Module:
    """A network that takes next to no time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(52 * 32, len(CAPTCHA.classes)))


def clock() -> float:
    """Seconds: of the processor on a CPU, by the clock on a GPU when it has done all of its work."""
    return now() if DEVICE.type == "cuda" else time.process_time()


def bare_loop(model: nn.Module, images: TrainImages) -> float:
    """Train without Lightning; return seconds a step, the first epoch left out."""
    images, model = images.to(DEVICE), model.to(DEVICE).train()
    sampler = TrainSampler(len(images), SETTINGS.batch_size, SETTINGS.seed, DEVICE)
    optimizer = torch.optim.SGD(
        model.parameters(), SETTINGS.learning_rate, SETTINGS.momentum, nesterov=True, weight_decay=5e-4
    )
    total = len(sampler) * SETTINGS.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, SETTINGS.learning_rate, total_steps=total, cycle_momentum=False
    )
    sums, seconds = torch.zeros(3, dtype=torch.float64, device=DEVICE), []
    for epoch in range(SETTINGS.epochs):
        sampler.set_epoch(epoch)
        start = clock()
        for batch, labels in TrainLoader(images, sampler):
            logits = model(batch)
            loss = F.cross_entropy(logits, labels, label_smoothing=SETTINGS.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            sums[0] += loss.detach() * len(labels)
            sums[1] += (logits.detach().argmax(1) == labels).sum()
            sums[2] += len(labels)
        seconds.append(clock() - start)
    return sum(seconds[1:]) / len(seconds[1:]) / len(sampler)


def with_lightning(model: nn.Module, images: TrainImages) -> float:
    """Train as the platform does; return seconds a step, the first epoch left out."""
    part = images.images
    validation = tensors(part.pixels[:64, 0].numpy(), part.labels[:64].numpy())
    data = SplitData(images, validation, SETTINGS)
    measured = train(model, data, SETTINGS)[1]
    seconds = measured.warm if DEVICE.type == "cuda" else measured.warm_cpu
    return seconds / (len(images) // data.batch_size)


@dataclass(frozen=True)
class Comparison:
    """One network in both ways."""

    name: str
    model: Callable[[], nn.Module]
    images: TrainImages
    limit: float
    """Times a bare loop's step that Lightning's may take."""

    def lines(self, rounds: int, recording: Recording) -> list[str]:
        """Measure, rounds alternating, and return the lines of the table."""
        bare, ours = [], []
        for _ in range(rounds):
            bare.append(bare_loop(self.model(), self.images))
            ours.append(with_lightning(self.model(), self.images))
        ratios = [one / other for one, other in zip(ours, bare, strict=True)]
        ratio = statistics.median(ratios)
        middle = statistics.median(bare)
        recording.claim(
            self.name, f"a step of training with Lightning, {self.name}", middle * ratio * 1e3, "CPU ms",
            alternative=middle * 1e3, alternative_name="a bare PyTorch loop, in turns",
            target=f"{self.limit} times as long at most", met=ratio <= self.limit,
        )  # fmt: skip
        return [
            f"  {self.name}",
            f"    bare loop {statistics.median(bare) * 1e3:10.3f} ms a step",
            f"    ours      {statistics.median(ours) * 1e3:10.3f} ms a step",
            f"    ratio     {ratio:10.3f} ({min(ratios):.3f} to {max(ratios):.3f} in the rounds)",
            f"    {met_or_missed(ratio <= self.limit)}: at most {self.limit} times as long as a bare loop",
        ]


def table(rounds: int, resnet_images: int, recording: Recording) -> list[str]:
    """Measure both networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    count = SETTINGS.batch_size * STEPS
    empty = train_images(np.zeros((count, 52, 32), np.uint8), np.zeros(count, np.int64), SETTINGS)
    still = replace(empty, augmentation=NoAugmentation(0, 0, 0, 0, 0))
    drawn = train_images(*characters(resnet_images), SETTINGS)
    comparisons = [
        Comparison("one linear layer, batch 64, no augmentation", linear, still, 1.7),
        Comparison("resnet18, batch 64, augmentation", lambda: network(SETTINGS), drawn, 1.03),
    ]
    lines = [
        f"Lightning's overhead; {conditions(rounds)}",
        *(line for one in comparisons for line in one.lines(rounds, recording)),
    ]
    torch.set_num_threads(threads)
    return lines
