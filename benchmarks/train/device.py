"""How much of the device is used, and how long it takes from random weights to 99 %."""

import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.results import Recording
from benchmarks.train.common import DEVICE, characters, network, now, tensors, train, train_images
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.trainer import SplitData

#: Floating point operations of a resnet18's forward and backward pass over one image of 52x32.
FLOP_AN_IMAGE = 2 * 0.387e9


def peak() -> float:
    """Floating point operations a second that the device reaches in bf16 matrix products."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    start = now()
    for _ in range(20):
        a @ a
    return 20 * 2 * 8192**3 / (now() - start)


def speeds(pixels: np.ndarray, labels: np.ndarray, sizes: list[int], recording: Recording) -> Iterator[str]:
    """Images a second for several batch sizes."""
    best = peak()
    for size in sizes:
        settings = TrainingSettings(epochs=4, batch_size=size)
        part = SplitData(
            train_images(pixels, labels, settings), tensors(pixels[:256], labels[:256]), settings
        )
        _, clock = train(network(settings), part, settings)
        rate = len(labels) // size * size / clock.warm
        recording.claim(
            f"peak-{size}", f"operations a second of a training, batch {size}", rate * FLOP_AN_IMAGE / 1e12,
            "TFLOP/s", alternative=best / 1e12, alternative_name="the card's own bf16 matrix products",
            better="more",
        )  # fmt: skip
        yield (
            f"  batch {size:<32}{rate:8.0f} images/s   {rate * FLOP_AN_IMAGE / best:5.1%} of the peak "
            f"({best / 1e12:.0f} TFLOP/s)"
        )


def to_99(
    pixels: np.ndarray, labels: np.ndarray, settings: TrainingSettings, seeds: int, recording: Recording
) -> Iterator[str]:
    """Seconds of fitting until 99 % of the validation images are read, the first time cold."""
    held = len(labels) * 2 // 10
    for seed in range(seeds):
        chosen = settings.replaced(seed=seed)
        data = SplitData(
            train_images(pixels[held:], labels[held:], chosen), tensors(pixels[:held], labels[:held]), chosen
        )
        start = time.perf_counter()
        module, clock = train(network(chosen), data, chosen)
        whole, accuracy = time.perf_counter() - start, [one["validation_accuracy"] for one in module.history]
        reached = next((number for number, value in enumerate(accuracy, 1) if value >= 0.99), None)
        if reached:
            recording.claim(
                f"to-99-{seed}", f"from random weights to 99 % on {len(labels):,} images, seed {seed}",
                sum(clock.epochs[:reached]), "s",
            )  # fmt: skip
        seconds = f"{sum(clock.epochs[:reached]):8.2f} s" if reached else "   never"
        yield (
            f"  seed {seed} ({'warm' if seed else 'cold'}){'':<22}{seconds} of steps to 0.99; "
            f"{accuracy[-1]:.4f} after {whole:.2f} s in all"
        )


def table(count: int, epochs: int, batch_size: int, seeds: int, recording: Recording) -> list[str]:
    """Measure on the GPU, where there is one."""
    if DEVICE.type != "cuda":
        return [
            "On a GPU: skipped, torch finds none here. On a machine with one, the same command compares with",
            "  the usual way there (20 times the images a second is the aim) and adds",
            "  - images a second for batches of 64 to 4,096, as a share of the card's measured bf16 peak",
            f"  - seconds from random weights to 99 % on {count:,} images, cold and warm, {seeds} seeds",
        ]
    pixels, labels = characters(count)
    settings = TrainingSettings(epochs=epochs, batch_size=batch_size)
    return [
        f"On {torch.cuda.get_device_name()}: {count} generated images",
        *speeds(pixels, labels, [64, 256, 1024, 4096], recording),
        *to_99(pixels, labels, settings, seeds, recording),
    ]
