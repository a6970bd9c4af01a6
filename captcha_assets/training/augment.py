"""Augmentation of a whole mini-batch at once, in tensor code on the device that holds it."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from captcha_assets.training.config import TrainingSettings


def draw_parameters(count: int, generator: torch.Generator) -> Tensor:
    """Draw augmentation parameters: float32 (count, 7), -1 to 1, on the generator's device."""
    return torch.rand(count, 7, generator=generator, device=generator.device).mul_(2).sub_(1)


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the augmentation; a parameter of 1 applies the whole strength, -1 its opposite."""

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

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the augmented images: float (N, 1, H, W), 0 to 1.

        Args:
            images: float (N, channels, H, W), 0 to 1.
            parameters: (N, 7) as `draw_parameters` returns them, on the same device.
        """
        grid = F.affine_grid(self._matrices(images, parameters), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        contrast = 1 + self.contrast * parameters[:, 5]
        brightness = self.brightness * parameters[:, 6]
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        light = (moved - mean) * contrast.view(-1, 1, 1, 1) + mean + brightness.view(-1, 1, 1, 1)
        return light.clamp_(0, 1)

    def _matrices(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the affine maps (N, 2, 3) from coordinates of the result to coordinates of the image."""
        height, width = images.shape[-2:]
        angle = parameters[:, 0] * math.radians(self.rotation)
        scale_x, scale_y = 1 + self.scale * parameters[:, 1], 1 + self.scale * parameters[:, 2]
        sin, cos = torch.sin(angle), torch.cos(angle)
        # Coordinates run from -1 to 1 along either axis; the rotation of an oblong image undoes that.
        rows = [
            cos * scale_x, -sin * scale_y * (height / width), parameters[:, 3] * (2 * self.shift / width),
            sin * scale_x * (width / height), cos * scale_y, parameters[:, 4] * (2 * self.shift / height),
        ]  # fmt: skip
        return torch.stack(rows, dim=1).view(-1, 2, 3)
