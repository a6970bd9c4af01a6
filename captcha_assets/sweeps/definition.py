"""What a sweep tries: one YAML file that holds a grid or a search space.

A sweep is named after its file and its content, so a changed file is another sweep; only a higher number
of `trials` adds some to the same one. A trial is named after its sweep, with its number.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from captcha_assets.atomic_files import write_json
from captcha_assets.paths import Paths
from captcha_assets.training import yaml_file
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.yaml_file import YamlFileError
from captcha_assets.validation_errors import one_line, unknown


class SweepError(ValueError):
    """A sweep that cannot be used; the message says which and why."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Part):
    """Numbers between two bounds, both included."""

    low: float
    high: float
    log: bool = False
    """Evenly over orders of magnitude."""
    step: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0, and no step")
        return self


class Pruning(_Part):
    """When a trial is stopped before its last epoch: it is worse than others were at that epoch."""

    keep: float = Field(0.5, gt=0, lt=1)
    """The share of the complete trials among which a trial must be."""
    after_trials: int = Field(4, ge=1)
    """Complete trials that it takes before any is stopped."""
    after_epochs: int = Field(1, ge=1)
    """Epochs that it takes before a trial is stopped."""


class Sweep(_Part):
    """What is tried. Exactly one of `grid` and `search` is given."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")
    fixed: dict[str, Any] = {}
    """Settings of all trials; what is named nowhere has the default of `TrainingSettings`."""
    grid: dict[str, list[Any]] | None = None
    """Every combination of these values is one trial."""
    search: dict[str, Range | list[Any]] | None = None
    """What an Optuna sampler (TPE) chooses from: ranges, or lists of values."""
    trials: int = Field(0, ge=0, le=999)
    """How many trials a search has."""
    seed: int = Field(0, ge=0)
    pruning: Pruning | None = None

    @model_validator(mode="after")
    def _usable(self) -> "Sweep":
        if bool(self.grid) == bool(self.search):
            raise ValueError("exactly one of `grid` and `search` is needed")
        if bool(self.search) != bool(self.trials):
            raise ValueError("a search needs `trials`, a grid follows from its values")
        if self.grid and len(self) > 999:
            raise ValueError(f"the grid has {len(self)} combinations, 999 are possible: use `search`")
        for name, values in (self.grid or self.search or {}).items():
            self._check(name, values)
        return self

    def _check(self, name: str, values: Range | list[Any]) -> None:
        if name not in TrainingSettings.model_fields:
            raise ValueError(unknown([name], TrainingSettings.model_fields))
        if name in self.fixed:
            raise ValueError(f"{name} is both fixed and varied")
        if isinstance(values, Range) and kind_of(name) not in (int, float):
            raise ValueError(f"{name} has no range: give a list of values")
        if isinstance(values, Range) and kind_of(name) is int and not (values.step or 1.0).is_integer():
            raise ValueError(f"{name} is a whole number, so its step must be one too: step={values.step:g}")
        ends = (
            [_number(name, values.low), _number(name, values.high)] if isinstance(values, Range) else values
        )
        if not ends:
            raise ValueError(f"{name} has no values")
        if len(set(map(json.dumps, ends))) < len(ends):
            raise ValueError(f"{name} names a value twice")
        for value in ends:
            TrainingSettings.of({**self.fixed, name: value})

    def __len__(self) -> int:
        return math.prod(map(len, self.grid.values())) if self.grid else self.trials

    @property
    def identity(self) -> str:
        """The sweep's own name: the file's, and a hash of what it says."""
        content = json.dumps(self.model_dump(exclude={"name", "trials"}), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"

    @property
    def trial_names(self) -> list[str]:
        """The names of the trials, in order."""
        return [f"{self.identity}-{number:03d}" for number in range(len(self))]

    def combination(self, number: int) -> dict[str, Any]:
        """Return the values of a grid's trial."""
        assert self.grid is not None
        return dict(zip(self.grid, list(itertools.product(*self.grid.values()))[number], strict=True))

    def settings_with(self, parameters: Mapping[str, Any]) -> TrainingSettings:
        """Return the whole settings of a trial with the values that are varied.

        Raises:
            SettingsError: together they cannot be used.
        """
        return TrainingSettings.of({**self.fixed, **parameters})


def kind_of(setting: str) -> Any:
    """Return the type of a training setting as it is annotated."""
    return TrainingSettings.model_fields[setting].annotation


def _number(setting: str, value: float) -> float:
    return int(value) if kind_of(setting) is int and value == int(value) else value


def sweep_of(trial: str) -> str:
    """Return the identity of the sweep that a trial belongs to."""
    return trial.rpartition("-")[0]


def number_of(trial: str) -> int:
    """Return the number of a trial in its sweep.

    Raises:
        SweepError: the name is not a trial's.
    """
    number = trial.rpartition("-")[2]
    if not number.isdecimal():
        raise SweepError(f"{trial!r} is no trial: <sweep>-<number> is needed; see: captcha-assets sweep show")
    return int(number)


def load(path: Path) -> Sweep:
    """Read the file of a sweep; it has the file's name unless it says another.

    Raises:
        SweepError: the file is missing, no YAML, or says what cannot be done.
    """
    try:
        value = yaml_file.read(path).values
    except YamlFileError as error:
        raise SweepError(str(error)) from error
    if not value:
        raise SweepError(f"{path} is no sweep: it needs `grid`, or `search` and `trials`")
    return _parsed({"name": path.stem.replace("-", "_").lower(), **value}, str(path))


def _parsed(value: Mapping[str, Any], where: str) -> Sweep:
    try:
        return Sweep.model_validate(value)
    except ValidationError as error:
        raise SweepError(f"{where}: {one_line(error, Sweep.model_fields)}") from error


def register(paths: Paths, sweep: Sweep) -> None:
    """Store the definition of a sweep, so that each of its trials can be trained by its name alone."""
    write_json(paths.sweep(sweep.identity), sweep.model_dump())


def all_registered(paths: Paths) -> list[Sweep]:
    """Return the sweeps that were registered, in order of their names.

    Raises:
        SweepError: one is damaged.
    """
    names = sorted(path.stem for path in paths.sweeps.glob("*.json")) if paths.sweeps.exists() else []
    return [registered(paths, name) for name in names]


def registered(paths: Paths, identity: str) -> Sweep:
    """Return a sweep that was registered.

    Raises:
        SweepError: there is none of that name, or it is damaged.
    """
    path = paths.sweep(identity)
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SweepError(f"there is no sweep {identity}: captcha-assets sweep start FILE") from error
    except (ValueError, RecursionError) as error:
        raise SweepError(f"{path} is damaged: captcha-assets sweep start FILE") from error
    return _parsed(value, str(path))
