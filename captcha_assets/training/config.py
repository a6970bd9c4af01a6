"""The settings of a training, and the job file that starts it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from captcha_assets.validation_errors import one_line, setting_of

#: The version of the training's code: raise it with a change that should train again.
TRAINING_CODE = "2"


class SettingsError(ValueError):
    """A training setting that cannot be used; the message names it and says what can.

    Attributes:
        setting: the setting's name; empty where no single one is the matter.
    """

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class JobError(ValueError):
    """A job file that cannot be used; the message says why."""


class TrainingError(RuntimeError):
    """A training that cannot begin or go on; the message is one line that says what to do."""


_Channels = Annotated[int, Field(ge=1, le=4096)]


class TrainingSettings(BaseModel):
    """How to train. The defaults are the production values."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Seed of the weights, the order of the images and the augmentation.",
    )
    sample_size: int | None = Field(
        default=10_000,
        ge=1,
        description="Train on the stratified sample of so many images, over all splits; null takes all.",
    )
    epochs: int = Field(default=12, ge=1, le=10_000, description="How often every training image is seen.")
    batch_size: int = Field(
        default=64, ge=1, le=65_536, description="Images of an optimizer step, over all devices."
    )
    learning_rate: float = Field(
        default=0.2, ge=1e-8, le=100, description="Highest learning rate of the one-cycle schedule."
    )
    momentum: float = Field(default=0.9, ge=0, le=0.9999, description="Nesterov momentum of the SGD.")
    weight_decay: float = Field(
        default=5e-4, ge=0, le=10, description="Weight decay; norms and biases have none."
    )
    label_smoothing: float = Field(
        default=0.05, ge=0, le=0.9, description="Share of the target given to the other classes."
    )
    warmup: float = Field(
        default=0.2, ge=0, le=0.9, description="Share of the steps after which the learning rate peaks."
    )
    shift: float = Field(
        default=2.0, ge=0, le=16, description="Crop jitter: images move by up to so many pixels."
    )
    rotation: float = Field(default=5.0, ge=0, le=45, description="Images turn by up to so many degrees.")
    scale: float = Field(
        default=0.1, ge=0, le=0.9, description="Images grow or shrink by up to this share, each axis alone."
    )
    brightness: float = Field(
        default=0.15, ge=0, le=1, description="Brightness moves by up to this share of the full range."
    )
    contrast: float = Field(default=0.2, ge=0, le=0.95, description="Contrast changes by up to this share.")
    channels: tuple[_Channels, ...] = Field(
        default=(64, 128, 256, 512),
        min_length=4,
        max_length=4,
        strict=False,  # YAML and JSON have lists, not tuples
        description="Channels of the four stages; fewer make a narrow, fast network.",
    )
    pretrained: bool = Field(
        default=False, description="Start from ImageNet weights, fetched from the Hugging Face hub."
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field(default="auto", description="Where to train.")
    devices: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of devices; several train by distributed data parallel (DDP).",
    )
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        default="auto", description="Precision; auto takes bf16 where the hardware has it natively."
    )

    @field_validator("devices")
    @classmethod
    def _share_the_mini_batch(cls, devices: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", devices)
        if batch_size % devices:
            raise ValueError(f"batch_size={batch_size} is not divisible by it")
        return devices

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return settings with the values that JSON or YAML holds.

        Raises:
            SettingsError: a name is unknown, or a value cannot be used.
        """
        try:
            return cls.model_validate({str(name): value for name, value in values.items()})
        except ValidationError as error:
            raise SettingsError(one_line(error, cls.model_fields), setting_of(error)) from None

    def replaced(self, **values: Any) -> Self:
        """Return the settings with other values, validated.

        Raises:
            SettingsError: a name is unknown, or a value cannot be used.
        """
        return self.of({**self.model_dump(), **values})

    @property
    def version(self) -> str:
        """The version of the settings: equal ones have equal versions; 12 hex digits."""
        content = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


class TrainingJob(BaseModel):
    """The configuration of a training process, as one JSON file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: tuple[Path, ...] = Field(description="Local `image_table` files of the batches.")
    splits: Path = Field(description="Local `splits` file.")
    splits_version: str = Field(description="Data version of the splits.")
    classes: tuple[str, ...] = Field(description="Output *i* of the model is the class `classes[i]`.")
    image_shape: tuple[int, ...] = Field(
        description="(height, width) of gray images, (height, width, 3) of RGB ones."
    )
    output: Path = Field(description="Model folder to write.")
    checkpoints: Path = Field(description="Folder of work in progress; removed when the training succeeds.")
    code_version: str
    settings: TrainingSettings = TrainingSettings()
    provenance: dict[str, Any] = Field(
        default={}, description="No part of the model's identity: run id, batches and the like."
    )
    pruning_thresholds: dict[int, float] = Field(
        default={},
        description="Validation accuracy to reach by the end of an epoch; the training stops below it.",
    )

    @property
    def last_checkpoint(self) -> Path:
        """Path of the checkpoint of the last finished epoch."""
        return self.checkpoints / "last.ckpt"

    @property
    def kept(self) -> str:
        """What a training that ends early leaves behind, for the end of a message."""
        if self.last_checkpoint.is_file():
            return f"the last checkpoint is kept in {self.checkpoints}"
        return "no epoch was finished, so no checkpoint is kept"

    def save(self, path: Path) -> None:
        """Write the job file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file and check it, down to the files it names.

        Raises:
            JobError: the file is missing, no JSON, or names files that do not exist; or a field or a
                setting cannot be used.
        """
        try:
            job = cls.model_validate(_read(path))
        except ValidationError as error:
            raise JobError(f"{path}: {one_line(error, cls.model_fields)}") from None
        _check_files(job, path)
        return job

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the resulting weights: a checkpoint of another fingerprint is not resumed."""
        decisive = {
            "settings": self.settings.model_dump(),
            "splits": self.splits_version,
            "classes": self.classes,
            "image_shape": self.image_shape,
            "code": self.code_version,
            "tables": sorted(table.name for table in self.tables),
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _check_files(job: TrainingJob, path: Path) -> None:
    if not job.tables:
        raise JobError(f"{path} names no image tables: there is nothing to train on")
    for file in (*job.tables, job.splits):
        if not file.is_file():
            raise JobError(f"{path} names {file}, which does not exist: materialize it first")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise JobError(f"{path} does not exist: give the path of a job file") from error
    except (ValueError, OSError) as error:
        raise JobError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise JobError(f"{path} is no job: an object is needed")
    return value
