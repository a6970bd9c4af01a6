"""What a training is told: its settings, and the job file that starts it. Standard library only."""

import dataclasses
import difflib
import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin


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


def _setting(
    default: Any,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a setting with its production value, its meaning and its inclusive bounds."""
    metadata = {"help": meaning, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The defaults are the production values.

    Raises:
        SettingsError: a value is of the wrong type or out of bounds.
    """

    seed: int = _setting(
        0, "Seed of the weights, the order of the images and the augmentation.", 0, 2**31 - 1
    )
    sample_size: int | None = _setting(
        10_000, "Train on the stratified sample of so many images, over all splits; null takes all.", 1
    )
    epochs: int = _setting(12, "How often every training image is seen.", 1, 10_000)
    batch_size: int = _setting(64, "Images a step, over all devices together.", 1, 65_536)
    learning_rate: float = _setting(0.2, "Highest learning rate of the one-cycle schedule.", 1e-8, 100)
    momentum: float = _setting(0.9, "Nesterov momentum of the SGD.", 0, 0.9999)
    weight_decay: float = _setting(5e-4, "Weight decay; norms and biases have none.", 0, 10)
    label_smoothing: float = _setting(0.05, "Share of the target given to the other classes.", 0, 0.9)
    warmup: float = _setting(0.2, "Share of the steps after which the learning rate peaks.", 0, 0.9)
    shift: float = _setting(2.0, "Crop jitter: images move by up to so many pixels.", 0, 16)
    rotation: float = _setting(5.0, "Images turn by up to so many degrees.", 0, 45)
    scale: float = _setting(0.1, "Images grow or shrink by up to this share, each axis alone.", 0, 0.9)
    brightness: float = _setting(0.15, "Brightness moves by up to this share of the full range.", 0, 1)
    contrast: float = _setting(0.2, "Contrast changes by up to this share.", 0, 0.95)
    channels: tuple[int, ...] = _setting(
        (64, 128, 256, 512), "Channels of the four stages; fewer make a narrow, fast network.", 1, 4096
    )
    pretrained: bool = _setting(False, "Start from ImageNet weights, fetched from the Hugging Face hub.")
    accelerator: str = _setting("auto", "Where to train.", choices=("auto", "cpu", "gpu"))
    devices: int = _setting(1, "On how many devices; more than one train together (DDP).", 1, 64)
    precision: str = _setting(
        "auto",
        "Precision; auto takes bf16 where the hardware has it natively.",
        choices=("auto", "32-true", "bf16-mixed"),
    )

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry, getattr(self, entry.name))
        if len(self.channels) != 4:
            raise SettingsError(
                f"channels={list(self.channels)}: four numbers are needed, one for each stage", "channels"
            )
        if self.batch_size % self.devices:
            raise SettingsError(
                f"batch_size={self.batch_size} cannot be shared by devices={self.devices}", "batch_size"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """Make settings from what JSON or YAML gave.

        Raises:
            SettingsError: a name is unknown, or a value cannot be used.
        """
        known = {entry.name for entry in fields(cls)}
        if unknown := sorted(map(str, set(values) - known)):
            near = difflib.get_close_matches(unknown[0], sorted(known), n=1)
            meant = f"is {near[0]} meant? " if near else ""
            raise SettingsError(
                f"unknown settings: {', '.join(unknown)}; {meant}known are {', '.join(sorted(known))}",
                unknown[0],
            )
        made: dict[str, Any] = {key: _frozen(value) for key, value in values.items()}
        return cls(**made)

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Check one value, as JSON or YAML gave it, by itself.

        Raises:
            SettingsError: it is of the wrong type or out of bounds.
        """
        _check(next(entry for entry in fields(cls) if entry.name == name), _frozen(value))


def bounds(low: float | None, high: float | None) -> str:
    """Return inclusive bounds in words."""
    return f"{low} to {high}" if high is not None else f"{low} or more"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is(value: Any, kind: Any) -> bool:
    """Say whether `value` is of the annotated type `kind`; an int is a float too, a bool is no number."""
    if isinstance(kind, types.UnionType):
        return any(_is(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(one, get_args(kind)[0]) for one in value)
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """Say what a value of the annotated type `kind` is to somebody who writes YAML."""
    if isinstance(kind, types.UnionType):
        return " or ".join(_in_words(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of whole numbers such as [32, 64]"
    return _KINDS.get(kind, str(kind))


_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number such as 0.1 or 1.0e-1",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def _check(entry: dataclasses.Field[Any], value: Any) -> None:
    low, high, choices = (entry.metadata[key] for key in ("low", "high", "choices"))
    if not _is(value, entry.type):
        raise SettingsError(
            f"{entry.name}={value!r} is of the wrong type: {_in_words(entry.type)} is needed", entry.name
        )
    if choices and value not in choices:
        raise SettingsError(f"{entry.name}={value!r} is not one of {', '.join(choices)}", entry.name)
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or (low is None and high is None):
            continue
        if not ((low is None or number >= low) and (high is None or number <= high)):
            possible = bounds(low, high)
            raise SettingsError(
                f"{entry.name}={number!r} is out of bounds: {possible} is possible", entry.name
            )


@dataclass(frozen=True)
class TrainingJob:
    """Everything a training process is told, as one JSON file."""

    tables: tuple[Path, ...]
    """Local `image_table` files of the deliveries."""
    splits: Path
    """Local `splits` file."""
    splits_version: str
    """Data version of the splits."""
    classes: tuple[str, ...]
    """Output *i* of the model is the class `classes[i]`."""
    image_shape: tuple[int, ...]
    """(height, width) of gray images, (height, width, 3) of RGB ones."""
    output: Path
    """Model folder to make."""
    checkpoints: Path
    """Folder of work in progress; removed when the training succeeds."""
    code_version: str
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Told, and no part of the model's identity: run id, deliveries and the like."""
    hurdles: Mapping[int, float] = field(default_factory=dict)
    """Validation accuracy that must be reached by the end of an epoch; otherwise the training stops there."""

    @property
    def last_checkpoint(self) -> Path:
        """Where the checkpoint of the last finished epoch lies, once there is one."""
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
        path.write_text(json.dumps(asdict(self), indent=2, default=str) + "\n")

    @classmethod
    def load(cls, path: Path) -> "TrainingJob":
        """Read a job file and check it, down to the files it names.

        Raises:
            JobError: the file is missing, no JSON, lacks a field, or names files that do not exist.
            SettingsError: a setting cannot be used.
        """
        value = _read(path)
        wanted = {entry.name for entry in fields(cls)}
        needed = wanted - {"settings", "provenance", "hurdles"}
        if unknown := ", ".join(sorted(set(value) - wanted)):
            raise JobError(f"{path} has unknown fields: {unknown}")
        if missing := ", ".join(sorted(needed - set(value))):
            raise JobError(f"{path} lacks the fields {missing}")
        job = cls._of(value, path)
        _check_files(job, path)
        return job

    @classmethod
    def _of(cls, value: Mapping[str, Any], path: Path) -> "TrainingJob":
        try:
            return cls(
                tables=tuple(Path(one) for one in value["tables"]),
                splits=Path(value["splits"]),
                splits_version=str(value["splits_version"]),
                classes=tuple(map(str, value["classes"])),
                image_shape=tuple(value["image_shape"]),
                output=Path(value["output"]),
                checkpoints=Path(value["checkpoints"]),
                code_version=str(value["code_version"]),
                settings=TrainingSettings.of(value.get("settings", {})),
                provenance=dict(value.get("provenance", {})),
                hurdles={int(epoch): float(least) for epoch, least in value.get("hurdles", {}).items()},
            )
        except (TypeError, AttributeError) as error:
            raise JobError(f"{path} has a field of the wrong type: {error}") from error

    @property
    def fingerprint(self) -> str:
        """What decides the resulting weights: checkpoints of another fingerprint are of no use."""
        told = {
            "settings": asdict(self.settings),
            "splits": self.splits_version,
            "classes": self.classes,
            "image_shape": self.image_shape,
            "code": self.code_version,
            "tables": sorted(table.name for table in self.tables),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


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
