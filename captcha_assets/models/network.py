"""The network, and the network as it is served: normalisation and temperature inside."""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

ARCHITECTURE = "resnet18"
#: Channels of the four stages of a resnet18; ImageNet weights exist for these only.
CHANNELS = (64, 128, 256, 512)


class PretrainedWeightsError(RuntimeError):
    """ImageNet weights that cannot be had; the message says where they could be put."""


def _fetched(architecture: str) -> str:
    """Return the local path of the architecture's ImageNet weights, fetched from the hub if need be."""
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    config = timm.get_pretrained_cfg(architecture)
    repository = config.hf_hub_id if config else None
    if not repository:
        raise PretrainedWeightsError(
            f"there are no ImageNet weights of {architecture}: set pretrained to false"
        )
    try:
        return hf_hub_download(repository, "model.safetensors", local_files_only=True)
    except LocalEntryNotFoundError:
        pass
    try:
        return hf_hub_download(repository, "model.safetensors")
    except OSError as error:
        raise PretrainedWeightsError(
            f"the ImageNet weights {repository} cannot be fetched from {constants.ENDPOINT} "
            f"({str(error).splitlines()[0]}): set HF_ENDPOINT to a mirror that can be reached, or put them "
            f"into {constants.HF_HUB_CACHE} (`hf download {repository}` on a machine that reaches the hub, "
            "then copy that folder), or set pretrained to false"
        ) from error


def build(
    architecture: str,
    channels: Sequence[int],
    classes: int,
    input_channels: int = 1,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """Build a network: float32 (N, input channels, H, W) normalised, to logits (N, classes).

    Args:
        architecture: name of a timm architecture of the ResNet family.
        channels: channels of the four stages.
        classes: number of outputs.
        input_channels: 1 for gray images, 3 for RGB.
        pretrained: start from ImageNet weights, fetched from the hub; for gray images the weights of the
            three input channels become one.

    Raises:
        PretrainedWeightsError: the weights cannot be fetched, or do not fit.
    """
    weights: dict[str, Any] = (
        {"pretrained_cfg_overlay": {"file": _fetched(architecture)}} if pretrained else {}
    )
    try:
        network: nn.Module = timm.create_model(
            architecture,
            pretrained=pretrained,
            in_chans=input_channels,
            num_classes=classes,
            channels=tuple(channels),
            **weights,
        )
    except (RuntimeError, SafetensorError) as error:
        if not pretrained:
            raise
        raise PretrainedWeightsError(
            f"the ImageNet weights do not fit {architecture} with channels {tuple(channels)} "
            f"({str(error).splitlines()[0]}): set channels to {CHANNELS}, or pretrained to false"
        ) from error
    return network.to(memory_format=torch.channels_last)


def imagenet_normalisation(network: nn.Module) -> tuple[float, float]:
    """Return mean and standard deviation over all channels, from the model's own data configuration."""
    config = resolve_model_data_config(network)
    mean, std = config["mean"], config["std"]
    return round(sum(mean) / len(mean), 6), round(sum(std) / len(std), 6)


class Served(nn.Module):
    """A network from uint8 images to probabilities: what clients see."""

    def __init__(self, network: nn.Module, mean: float, std: float, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std, self.temperature = mean, std, temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 probabilities (N, classes) of uint8 images (N, channels, H, W)."""
        normalised = (images.float() / 255 - self.mean) / self.std
        return torch.softmax(self.network(normalised).float() / self.temperature, dim=1)
