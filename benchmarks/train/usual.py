"""Training as most projects do it: files decoded by Pillow in worker processes, metrics logged every step."""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.results import Recording
from benchmarks.train.common import (
    DEVICE,
    Clock,
    characters,
    conditions,
    met_or_missed,
    network,
    tensors,
    train,
    train_images,
)
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.trainer import SplitData


def write_files(folder: Path, pixels: np.ndarray) -> list[Path]:
    """Write uint8 images (N, 52, 32) as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


class Files(Dataset[Any]):
    """One PNG file an item, decoded and augmented one by one."""

    def __init__(self, paths: Sequence[Path], labels: np.ndarray, settings: TrainingSettings) -> None:
        self.paths, self.labels = paths, labels
        moved = (settings.shift / 32, settings.shift / 52)
        sizes = (1 - settings.scale, 1 + settings.scale)
        self.transform = transforms.Compose(
            [
                transforms.RandomAffine(settings.rotation, translate=moved, scale=sizes, fill=255),
                transforms.ColorJitter(settings.brightness, settings.contrast),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.3]),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[index])), int(self.labels[index])


class Tensors(Dataset[Any]):
    """One tensor an item, augmented one by one."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, settings: TrainingSettings) -> None:
        self.pixels, self.labels = torch.from_numpy(pixels)[:, None], torch.from_numpy(labels)
        moved = (settings.shift / 32, settings.shift / 52)
        self.transform = transforms.RandomAffine(settings.rotation, translate=moved, fill=255)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.transform(self.pixels[index]).float() / 255 - 0.5) / 0.3, self.labels[index]


class Usual(pl.LightningModule):
    """The same network, loss and optimizer, with Lightning's own optimization and a log line a step."""

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        rate, steps = self.settings.learning_rate, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.SGD(self.parameters(), rate, 0.9, nesterov=True, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(module: Usual, data: Dataset[Any], workers: int, callbacks: list[pl.Callback]) -> None:
    """Train two epochs; the first one starts the workers."""
    loader = DataLoader(
        data,
        batch_size=module.settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator=module.settings.accelerator,
            devices=1,
            logger=CSVLogger(folder),
            default_root_dir=folder,
            callbacks=callbacks,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(module, loader)


def _lines(measured: dict[str, list[tuple[float, float]]], count: int, recording: Recording) -> list[str]:
    """A line for each way: images a second by the clock, CPU time an image, both also against ours."""
    middle = {
        name: [statistics.median(column) / count for column in zip(*rounds, strict=True)]
        for name, rounds in measured.items()
    }
    wall, cpu = middle["ours"]
    lines = [f"  {'':<32}{'images/s':>9}{'times as long':>15}{'CPU ms an image':>17}{'times as much':>15}"]
    for name, (seconds, work) in middle.items():
        times = f"{seconds / wall:15.2f}{work * 1e3:17.2f}{work / cpu:15.2f}"
        lines.append(f"  {name:<32}{1 / seconds:9.0f}{times}")
    least, target = (20, "20 times") if DEVICE.type == "cuda" else (1, "not slower")
    claim = f"images a second of a training on {DEVICE.type}, resnet18, batch 64"
    for name, (seconds, _) in middle.items():
        if name != "ours":
            recording.claim(
                name, claim, 1 / wall, "images/s",
                alternative=1 / seconds, alternative_name=name, better="more", target=target,
                met=seconds / wall >= least,
            )  # fmt: skip
    fastest = min(seconds for name, (seconds, _) in middle.items() if name != "ours") / wall
    if DEVICE.type == "cuda":
        return [
            *lines,
            f"  {met_or_missed(fastest >= 20)}: ours does 20 times the images a second of the faster one",
        ]
    return [*lines, f"  {met_or_missed(fastest >= 1)}: ours is not slower than the faster one, by the clock"]


def table(
    count: int, workers: int, channels: tuple[int, ...], rounds: int, recording: Recording
) -> list[str]:
    """Measure ours and the usual ways, rounds alternating."""
    settings = TrainingSettings(epochs=2, batch_size=64, channels=channels)
    pixels, labels = characters(count)
    images = train_images(pixels, labels, settings)
    part = SplitData(images, tensors(pixels[:64], labels[:64]), settings)
    with tempfile.TemporaryDirectory() as folder:
        files = Files(write_files(Path(folder), pixels), labels, settings)
        loose = Tensors(pixels, labels, settings)
        ways = {
            "ours": lambda: train(network(settings), part, settings)[1],
            f"usual, PNG files, {workers} workers": lambda: _clock(files, workers, settings),
            f"usual, tensors, {workers} workers": lambda: _clock(loose, workers, settings),
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                clock = way()
                measured[name].append((clock.warm, clock.warm_cpu))
    return [
        f"Against the usual way: resnet18 {channels}, batch 64, {count} images; {conditions(rounds)}",
        "  ours augments with everything; PNG files with the same, one by one; tensors with shifts and turns",
        *_lines(measured, count // 64 * 64, recording),
    ]


def _clock(data: Dataset[Any], workers: int, settings: TrainingSettings) -> Clock:
    clock = Clock()
    fit(Usual(network(settings), settings), data, workers, [clock])
    return clock
