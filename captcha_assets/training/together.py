"""Batch norms that look at the whole batch where several processes share it.

Torch has them too, for GPUs only; these run everywhere, so that what is tested is what is used.
"""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, nn


class _MeanOfAll(torch.autograd.Function):
    """The mean of a tensor over all processes."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return _mean_of_all(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _mean_of_all(gradients[0])


def _mean_of_all(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over the batches of all processes, which must be of one size."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, C, H, W) normalised; in training by the figures of all processes' batches."""
        if not self.training:
            return super().forward(images)
        values = images.to(torch.promote_types(images.dtype, torch.float32))
        own = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        mean, square = _MeanOfAll.apply(own)
        variance = square - mean.square()
        self._follow(mean.detach(), variance.detach(), images.numel() // len(mean) * dist.get_world_size())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(images.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)


class SharedBatchNorms(LayerSync):
    """Makes a model's batch norms shared ones while it trains; their parameters stay the same."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Share the batch norms of `model`."""
        return _turn(model, nn.BatchNorm2d, SharedBatchNorm2d)

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo it."""
        return _turn(model, SharedBatchNorm2d, nn.BatchNorm2d)


def _turn(model: nn.Module, before: type[nn.Module], after: type[nn.Module]) -> nn.Module:
    for module in model.modules():
        if type(module) is before:
            module.__class__ = after
    return model
