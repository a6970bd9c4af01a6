"""Images on the device for the whole training, and the loaders that take mini-batches from them.

Everything that is random in an epoch follows from the seed and the epoch's number: the same seed gives
the same mini-batches, and a resumed training sees what an uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from captcha_assets.training.augment import Augmentation, draw_parameters


@dataclass(frozen=True)
class Images:
    """Labelled images on one device."""

    pixels: Tensor
    """uint8 (N, channels, H, W)."""
    labels: Tensor
    """int64 (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        """Return the images on `device`."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the pixels; both after division by 255."""

    mean: float
    std: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return float images (0 to 1) normalised as the network expects them."""
        return (images - self.mean) / self.std

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Normalisation":
        """Measure it on uint8 images."""
        counts = np.bincount(pixels.reshape(-1), minlength=256).astype(np.float64)
        values = np.arange(256) / 255
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        return cls(round(mean, 6), round(max(variance**0.5, 1e-3), 6))


@dataclass(frozen=True)
class Share:
    """The part of every mini-batch that one process of a distributed training takes."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class TrainImages:
    """Training images with their augmentation and normalisation."""

    images: Images
    augmentation: Augmentation
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "TrainImages":
        """Return the images on `device`."""
        return replace(self, images=self.images.to(device))

    def mini_batch(self, indices: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 (B, channels, H, W) augmented and normalised images and their int64 (B,) labels.

        Args:
            indices: int64 (B,), which images.
            parameters: float32 (B, 7), the augmentation parameters of each.
        """
        augmented = self.augmentation(self.images.pixels[indices].float() / 255, parameters)
        return self.normalisation(augmented), self.images.labels[indices]


@dataclass
class TrainSampler:
    """Draws the image indices and augmentation parameters of every step of an epoch.

    Every image comes once an epoch, in another order and with other parameters each time. An epoch leaves
    out the images that fill no mini-batch: other ones each time.
    """

    count: int
    """Number of training images."""
    batch_size: int
    """Images of an optimizer step, over all processes."""
    seed: int
    device: torch.device
    share: Share = Share()
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw for this epoch from now on; Lightning calls it, as it does for a distributed sampler."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield int64 (B,) indices and float32 (B, 7) augmentation parameters, for one step each."""
        generator = self._generator()
        used = len(self) * self.batch_size
        order = torch.randperm(self.count, generator=generator, device=self.device)[:used]
        parameters = draw_parameters(used, generator)
        for start in range(0, used, self.batch_size):
            part = slice(start + self.share.rank, start + self.batch_size, self.share.world_size)
            yield order[part], parameters[part]

    def _generator(self) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))


@dataclass(frozen=True)
class TrainLoader:
    """The mini-batches of an epoch, gathered on the device that holds the images."""

    images: TrainImages
    sampler: TrainSampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 (B, channels, H, W) augmented and normalised images and int64 (B,) labels."""
        for indices, parameters in self.sampler:
            yield self.images.mini_batch(indices, parameters)


@dataclass(frozen=True)
class EvaluationLoader:
    """Images without augmentation, in their order, each once; several processes share each mini-batch."""

    images: Images
    normalisation: Normalisation
    batch_size: int
    share: Share = Share()

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 (B, channels, H, W) normalised images and int64 (B,) labels."""
        for start in range(0, len(self.images), self.batch_size):
            part = slice(start + self.share.rank, start + self.batch_size, self.share.world_size)
            yield self.normalisation(self.images.pixels[part].float() / 255), self.images.labels[part]
