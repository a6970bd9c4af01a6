"""Images on the device, once and for the whole training; a batch is a slice of them.

Everything that is random in an epoch follows from the seed and the epoch's number: the same seed gives
the same batches, and a training that goes on after an interruption sees what it would have seen.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from captcha_assets.training.augment import Augmentation, draw_changes


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
    """What pixels are brought to; both values after division by 255."""

    mean: float
    std: float

    def __call__(self, images: Tensor) -> Tensor:
        """Return float images (0 to 1) as the network wants them."""
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
    """The part of every batch that this process trains on, of several that train together."""

    rank: int = 0
    of: int = 1


@dataclass(frozen=True)
class TrainImages:
    """Images to learn from, and what is done to them each time they are seen."""

    images: Images
    augmentation: Augmentation
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "TrainImages":
        """Return the images on `device`."""
        return replace(self, images=self.images.to(device))

    def batch(self, places: Tensor, changes: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 (B, channels, H, W) augmented and normalised images and their int64 (B,) labels.

        Args:
            places: int64 (B,), which images.
            changes: (B, 7), what `augmentation` does to them.
        """
        changed = self.augmentation(self.images.pixels[places].float() / 255, changes)
        return self.normalisation(changed), self.images.labels[places]


@dataclass(frozen=True)
class TrainPlan:
    """What the steps of an epoch look at: every image once, in another order and form each epoch.

    An epoch leaves out the images that fill no batch: other ones each time. Steps come in stretches of
    up to `stretch`, so that what Lightning does around each of its own steps is paid once a stretch.
    """

    count: int
    """Images there are."""
    batch_size: int
    """Images a step, over all processes together."""
    seed: int
    epoch: Callable[[], int]
    """Asked for the epoch's number when an epoch begins."""
    device: torch.device
    share: Share = Share()
    stretch: int = 32

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.count // self.batch_size

    def __len__(self) -> int:
        return math.ceil(self.steps / self.stretch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield int64 (K, B) places of images and float32 (K, B, 7) changes, for K steps each."""
        generator = self._generator()
        used = self.steps * self.batch_size
        order = torch.randperm(self.count, generator=generator, device=self.device)[:used]
        changes = draw_changes(used, generator)
        places = order.view(self.steps, self.batch_size)[:, self.share.rank :: self.share.of]
        changes = changes.view(self.steps, self.batch_size, -1)[:, self.share.rank :: self.share.of]
        yield from zip(places.split(self.stretch), changes.split(self.stretch), strict=True)

    def _generator(self) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, self.epoch())).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1)))


@dataclass(frozen=True)
class EvalBatches:
    """Images as they are, in their order, each once; of several processes each takes its share."""

    images: Images
    normalisation: Normalisation
    batch_size: int
    share: Share = Share()

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield float32 (B, channels, H, W) normalised images and int64 (B,) labels."""
        for start in range(0, len(self.images), self.batch_size):
            mine = slice(start + self.share.rank, start + self.batch_size, self.share.of)
            yield self.normalisation(self.images.pixels[mine].float() / 255), self.images.labels[mine]
