"""The record of each trial: `trial.json`, complete or absent; later trials read nothing else."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from captcha_assets.atomic_files import write_json
from captcha_assets.paths import Paths
from captcha_assets.sweeps.definition import Sweep, SweepError

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclass(frozen=True)
class Record:
    """A trial that has ended.

    Attributes:
        trial: its name.
        sweep: the sweep's.
        state: "complete", "pruned" or "failed".
        parameters: the values that the sweep varies.
        settings: all settings of the training.
        value: validation accuracy of the last epoch; None for a failed trial.
        history: the metrics of every epoch.
        splits_version: data version of the splits.
        code_version: of the training's code.
        error: why it failed.
    """

    trial: str
    sweep: str
    state: str
    parameters: dict[str, Any]
    settings: dict[str, Any]
    value: float | None
    history: list[dict[str, Any]]
    splits_version: str
    code_version: str
    error: str | None = None

    @property
    def version(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def save(paths: Paths, record: Record) -> None:
    """Write a record. A failure does not replace what was achieved before."""
    if record.state == FAILED:
        before = load_readable(paths, record.trial)
        if before is not None and before.state != FAILED:
            return
    write_json(paths.sweep_trial(record.trial), asdict(record))


def load(paths: Paths, trial: str) -> Record | None:
    """Return the record of a trial; None where it has not ended.

    Raises:
        SweepError: the record is damaged.
    """
    path = paths.sweep_trial(trial)
    try:
        return Record(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise SweepError(f"{path} is damaged: remove it and run the trial again") from error


def load_all(paths: Paths, sweep: str | None = None) -> list[Record]:
    """Return the records of a sweep, or of all sweeps, in order of the trials' names.

    A damaged record is as none: its trial waits, and the next `sweep run` trains it again.
    """
    if not paths.sweep_trials.exists():
        return []
    names = sorted(folder.name for folder in paths.sweep_trials.iterdir() if folder.is_dir())
    records = [load_readable(paths, name) for name in names if not sweep or name.startswith(f"{sweep}-")]
    return [record for record in records if record is not None]


def load_readable(paths: Paths, trial: str) -> Record | None:
    """Return the record of a trial; None where it has not ended, or the record is damaged."""
    with suppress(SweepError):
        return load(paths, trial)
    return None


def described(parameters: Mapping[str, Any]) -> str:
    """Return the values that a sweep varies, as one line."""
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in parameters.items())


def pruning_thresholds(sweep: Sweep, peers: Sequence[Record], epochs: int) -> dict[int, float]:
    """Return the accuracy that a trial must have reached by the end of each epoch, or be stopped.

    It is the rule of Optuna's `PercentilePruner`, laid down before the trial begins: so the training
    process needs neither Optuna nor anyone to ask, and the same records give the same trial.

    Args:
        sweep: says whether and when trials are stopped.
        peers: trials to compare with; those that are complete count.
        epochs: epochs of the trial.
    """
    rule, complete = sweep.pruning, [record for record in peers if record.state == COMPLETE]
    if rule is None or len(complete) < rule.after_trials:
        return {}
    found = {}
    for epoch in range(rule.after_epochs, epochs):
        reached = [record.history[epoch - 1] for record in complete if len(record.history) >= epoch]
        if reached:
            accuracies = [entry["validation_accuracy"] for entry in reached]
            found[epoch] = float(np.percentile(accuracies, 100 * (1 - rule.keep)))
    return found
