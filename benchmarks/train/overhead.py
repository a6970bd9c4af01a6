"""Lightning's overhead: a network so small that only overhead remains."""

import statistics
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.train.common import DEVICE, Stretched, conditions, now, tensors, to_learn_from, train, verdict
from captcha_assets.dataset import CAPTCHA
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import TrainImages, TrainPlan
from captcha_assets.training.trainer import SplitData

SETTINGS = TrainingSettings(epochs=3, batch_size=64, learning_rate=1e-3, precision="32-true")
STEPS = 256

#: Times a bare loop's step that ours may take.
MOST = 1.3


class Still(Augmentation):
    """No augmentation."""

    def __call__(self, images: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return images


def tiny() -> nn.Module:
    """A network that takes next to no time."""
    return nn.Sequential(nn.Flatten(), nn.Linear(52 * 32, len(CAPTCHA.classes)))


def bare_loop(images: TrainImages) -> float:
    """Train without Lightning; returns seconds a step."""
    images, model = images.to(DEVICE), tiny().to(DEVICE)
    plan = TrainPlan(len(images), SETTINGS.batch_size, 0, lambda: 0, DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, 0.9, nesterov=True)
    total = plan.steps * SETTINGS.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=total, cycle_momentum=False)
    sums, seconds = torch.zeros(3, dtype=torch.float64, device=DEVICE), []
    for _ in range(SETTINGS.epochs):
        start = now()
        for stretch in plan:
            for places, changes in zip(*stretch, strict=True):
                batch, labels = images.batch(places, changes)
                logits = model(batch)
                loss = F.cross_entropy(logits, labels, label_smoothing=SETTINGS.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                sums[0] += loss.detach() * len(labels)
                sums[1] += (logits.detach().argmax(1) == labels).sum()
                sums[2] += len(labels)
        seconds.append(now() - start)
    return sum(seconds[1:]) / len(seconds[1:]) / plan.steps


def lightning(images: TrainImages, kind: type[SplitData]) -> float:
    """Train as the platform does; returns seconds a step."""
    part = images.images
    validation = tensors(part.pixels[:256, 0].numpy(), part.labels[:256].numpy())
    data = kind(images, validation, SETTINGS)
    return train(tiny(), data, SETTINGS)[1].warm / (data.steps // SETTINGS.epochs)


def table(rounds: int) -> list[str]:
    """Measure, rounds alternating."""
    count = SETTINGS.batch_size * STEPS
    pixels, labels = np.zeros((count, 52, 32), np.uint8), np.zeros(count, np.int64)
    images = replace(to_learn_from(pixels, labels, SETTINGS), augmentation=Still(0, 0, 0, 0, 0))
    ways = {
        "bare loop": lambda: bare_loop(images),
        "ours": lambda: lightning(images, SplitData),
        "ours, every step one of Lightning's": lambda: lightning(images, Stretched),
    }
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            measured[name].append(way())
    middle = {name: statistics.median(times) for name, times in measured.items()}
    bare, ours = middle["bare loop"], middle["ours"]
    return [
        f"Lightning's overhead: one linear layer, batch 64, no augmentation; {conditions(rounds)}",
        f"  {'':<38}{'ms a step':>10}{'times a bare loop':>20}",
        *(f"  {name:<38}{seconds * 1e3:10.3f}{seconds / bare:20.2f}" for name, seconds in middle.items()),
        f"  {verdict(ours <= MOST * bare)}: ours takes {MOST} times as long as a bare loop at most",
    ]
