"""The model folder: weights and everything that is needed to use and to explain them.

    model.safetensors   the weights; never pickled, never unpickled
    config.json         `ModelConfig`: architecture, classes, normalisation, temperature, where it is from
    history.json        the metrics of every epoch
    metrics.json        the figures of the finished training
    manifest.json       the model's id and the SHA-256 of every file; written last

Reading a folder needs nothing but the folder; reading its configuration needs no torch.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captcha_assets.atomic_files import json_text
from captcha_assets.models.manifest import ModelFolderError, read_json, verify_files, writing_folder

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "LoadedModel",
    "ModelConfig",
    "ModelFolderError",
    "load",
    "model_id",
    "read_config",
    "read_history",
    "read_metrics",
    "save",
    "verify",
]

WEIGHTS, CONFIG, HISTORY, METRICS = "model.safetensors", "config.json", "history.json", "metrics.json"


@dataclass(frozen=True)
class ModelConfig:
    """What a model is and where it comes from."""

    architecture: str
    """Name of the timm architecture."""
    channels: tuple[int, ...]
    """Channels of the four stages."""
    classes: tuple[str, ...]
    """Output *i* of the model is the class `classes[i]`."""
    input_size: tuple[int, int]
    """Height and width in pixels; 0 to 255."""
    mean: float
    """Mean of the pixels, after division by 255."""
    std: float
    """Standard deviation of the pixels, after division by 255."""
    temperature: float
    """What logits are divided by before the softmax."""
    seed: int
    splits_version: str
    """Data version of the splits that the training saw."""
    code_version: str
    settings: dict[str, Any] = field(default_factory=dict)
    """The training's settings."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that trained it."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Run, batches and the like: given, and no part of the model's identity."""
    input_channels: int = 1
    """1 for gray images, 3 for RGB; models of before this field are of gray ones."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an image: (height, width) of a gray one, (height, width, 3) of an RGB one."""
        return self.input_size if self.input_channels == 1 else (*self.input_size, self.input_channels)


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode, from normalised images to logits, and its configuration."""

    model: "nn.Module"
    config: ModelConfig


def _config_of(value: Any, path: Path) -> ModelConfig:
    names = {entry.name for entry in fields(ModelConfig)}
    if isinstance(value, dict):
        value = {"input_channels": 1, **value}
    if not isinstance(value, dict) or set(value) != names:
        differing = ", ".join(sorted(names ^ set(value))) if isinstance(value, dict) else "not an object"
        raise ModelFolderError(f"{path} is not a model's configuration (missing or unknown: {differing})")
    value = {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
    return ModelConfig(**value)


def _id(weights: str, config: Mapping[str, Any]) -> str:
    """Return a model's id, from the hash of its weights and its configuration without the provenance."""
    lasting = {key: value for key, value in config.items() if key != "provenance"}
    digest = hashlib.sha256((weights + json.dumps(lasting, sort_keys=True)).encode())
    return f"{config['architecture']}-{digest.hexdigest()[:12]}"


def save(
    folder: Path,
    model: "nn.Module",
    config: ModelConfig,
    history: list[dict[str, Any]],
    metrics: dict[str, Any],
) -> str:
    """Write a model folder, complete or not at all, and return the model's id.

    The same model gives the same bytes. A folder of old is replaced.

    Args:
        folder: local folder to write.
        model: the network as `load` will build it.
        config: what it is and where it comes from; values that JSON knows.
        history: one entry per epoch.
        metrics: the figures of the finished training.
    """
    from safetensors.torch import save as in_bytes  # noqa: PLC0415

    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    described = asdict(config)
    with writing_folder(folder, model_id=lambda files: _id(files[WEIGHTS], described)) as part:
        # safetensors, writing the file itself, would not say as an OSError that the disk is full.
        (part / WEIGHTS).write_bytes(in_bytes(weights))
        (part / CONFIG).write_text(json_text(described))
        (part / HISTORY).write_text(json_text(history))
        (part / METRICS).write_text(json_text(metrics))
    return model_id(folder)


def read_config(folder: Path) -> ModelConfig:
    """Read what a model is. Needs no torch.

    Raises:
        ModelFolderError: the configuration is missing or damaged.
    """
    return _config_of(read_json(folder / CONFIG), folder / CONFIG)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics of every epoch.

    Raises:
        ModelFolderError: the file is missing or damaged.
    """
    return list(read_json(folder / HISTORY))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read the figures of the finished training.

    Raises:
        ModelFolderError: the file is missing or damaged.
    """
    return dict(read_json(folder / METRICS))


def verify(folder: Path, advice: str = "restore the folder or train again") -> str:
    """Compare every file of a model folder with its hash and return the model's id. Needs no torch.

    Args:
        folder: the model folder.
        advice: what to do where a file is missing or damaged, see `verify_files`.

    Raises:
        ModelFolderError: a file is missing or damaged; the message names it.
    """
    manifest = verify_files(folder, advice)
    for name in (WEIGHTS, CONFIG, HISTORY, METRICS):
        if name not in manifest["files"]:
            raise ModelFolderError(f"{folder / 'manifest.json'} does not know {name}: it is no model folder")
    expected = _id(manifest["files"][WEIGHTS], read_json(folder / CONFIG))
    if manifest.get("model_id") != expected:
        raise ModelFolderError(
            f"{folder / 'manifest.json'} is damaged: it does not name the model {expected}"
        )
    return expected


def model_id(folder: Path) -> str:
    """Return the id of the model in `folder`, after verifying it.

    Raises:
        ModelFolderError: a file is missing or damaged; the message names it.
    """
    return verify(folder)


def load(folder: Path) -> LoadedModel:
    """Load a model after verifying its folder. Needs nothing but the folder, and unpickles nothing.

    Raises:
        ModelFolderError: the folder is damaged, or its weights do not fit its configuration.
    """
    from safetensors.torch import load_file  # noqa: PLC0415

    from captcha_assets.models.network import build  # noqa: PLC0415

    verify(folder)
    config = read_config(folder)
    network = build(config.architecture, config.channels, len(config.classes), config.input_channels)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ModelFolderError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return LoadedModel(network.eval(), config)
