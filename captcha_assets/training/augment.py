"""Augmentation of a whole batch at once, in tensor code on the device that holds it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from captcha_assets.training.config import TrainingSettings


def draw_changes(count: int, generator: torch.Generator) -> Tensor:
    """Draw the changes of so many images: float32 (count, 7), -1 to 1, on the generator's device."""
    return torch.rand(count, 7, generator=generator, device=generator.device).mul_(2).sub_(1)


@dataclass(frozen=True)
class Augmentation:
    """How far images may change; each change is drawn evenly between minus and plus its strength."""

    shift: float
    """Pixels."""
    rotation: float
    """Degrees."""
    scale: float
    """Share, each axis alone."""
    brightness: float
    """Share of the full range."""
    contrast: float
    """Share."""

    @classmethod
    def of(cls, settings: TrainingSettings) -> "Augmentation":
        """Take the strengths from the settings."""
        return cls(settings.shift, settings.rotation, settings.scale, settings.brightness, settings.contrast)

    def __call__(self, images: Tensor, changes: Tensor) -> Tensor:
        """Return the changed images.

        Args:
            images: float (N, channels, H, W), 0 to 1.
            changes: (N, 7) as `draw_changes` returns them, on the same device.
        """
        grid = F.affine_grid(self._matrices(images, changes), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        contrast = 1 + self.contrast * changes[:, 5]
        brightness = self.brightness * changes[:, 6]
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        light = (moved - mean) * contrast.view(-1, 1, 1, 1) + mean + brightness.view(-1, 1, 1, 1)
        return light.clamp_(0, 1)

    def _matrices(self, images: Tensor, changes: Tensor) -> Tensor:
        """Return the affine maps (N, 2, 3) from places in the result to places in the image."""
        height, width = images.shape[-2:]
        angle = changes[:, 0] * math.radians(self.rotation)
        scale_x, scale_y = 1 + self.scale * changes[:, 1], 1 + self.scale * changes[:, 2]
        sin, cos = torch.sin(angle), torch.cos(angle)
        # Places run from -1 to 1 along either axis: turning an image that is not square has to undo that.
        rows = [
            cos * scale_x, -sin * scale_y * (height / width), changes[:, 3] * (2 * self.shift / width),
            sin * scale_x * (width / height), cos * scale_y, changes[:, 4] * (2 * self.shift / height),
        ]  # fmt: skip
        return torch.stack(rows, dim=1).view(-1, 2, 3)
