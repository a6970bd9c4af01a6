"""Images, a clock, and training as the platform does it, for all comparisons."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytorch_lightning as pl
import torch
from torch import nn

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models.network import ARCHITECTURE, build
from captcha_assets.sources.synthetic_batches import generate
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import Images, Normalisation, TrainImages
from captcha_assets.training.module import Classifier
from captcha_assets.training.trainer import SplitData, make_trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def characters(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Generated characters: uint8 (N, 52, 32), and class numbers (N,)."""
    labels, images = zip(*generate(count, seed), strict=True)
    return np.stack(images), np.array([CAPTCHA.classes.index(label) for label in labels])


def tensors(pixels: np.ndarray, labels: np.ndarray) -> Images:
    """Images as training holds them."""
    return Images(torch.from_numpy(pixels)[:, None], torch.from_numpy(labels))


def train_images(pixels: np.ndarray, labels: np.ndarray, settings: TrainingSettings) -> TrainImages:
    """Training images, augmented as training does."""
    return TrainImages(tensors(pixels, labels), Augmentation.of(settings), Normalisation.of(pixels))


def network(settings: TrainingSettings) -> nn.Module:
    """A resnet18 with new weights."""
    torch.manual_seed(settings.seed)
    return build(ARCHITECTURE, settings.channels, len(CAPTCHA.classes))


def now() -> float:
    """The clock, when the device has done all of its work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU time that this process and those it has started (a loader's workers) have taken."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def conditions(rounds: int) -> str:
    """The conditions of a comparison."""
    return f"median of {rounds} rounds on {DEVICE.type}, {torch.get_num_threads()} threads"


def met_or_missed(met: bool) -> str:
    return "met" if met else "MISSED"


class Clock(pl.Callback):
    """Seconds, and CPU seconds, that the training steps of each epoch take, without validation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.cpu: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.cpu_start, self.start = cpu_seconds(), now()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if arguments[-1] + 1 == trainer.num_training_batches:
            self.epochs.append(now() - self.start)
            self.cpu.append(cpu_seconds() - self.cpu_start)

    @property
    def warm(self) -> float:
        """Seconds of an epoch, the first one left out."""
        return sum(self.epochs[1:]) / len(self.epochs[1:])

    @property
    def warm_cpu(self) -> float:
        """CPU seconds of an epoch, the first one left out."""
        return sum(self.cpu[1:]) / len(self.cpu[1:])


def train(
    network: nn.Module,
    data: SplitData,
    settings: TrainingSettings,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Classifier, Clock]:
    """Train as the platform does."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(settings, Path(folder), report)
        trainer.callbacks.insert(0, clock)
        module = Classifier(network, settings)
        trainer.fit(module, datamodule=data)
    return module, clock
