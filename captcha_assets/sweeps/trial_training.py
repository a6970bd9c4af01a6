"""The training of one trial: its parameters, its job, and its record."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from captcha_assets.images.table_parts import version_of
from captcha_assets.models import folder
from captcha_assets.paths import Paths
from captcha_assets.sweeps import trial_records
from captcha_assets.sweeps.definition import Sweep
from captcha_assets.sweeps.trial_parameters import trial_parameters
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED, Record
from captcha_assets.training.config import TRAINING_CODE, TrainingJob
from captcha_assets.training.failures import TrainingFailedError

#: Trains a job to its end, and returns what the training process reports.
Train = Callable[[TrainingJob], list[dict[str, Any]]]


def planned(paths: Paths, sweep: Sweep, trial: str) -> Record:
    """Return the record of a trial that has not begun."""
    empty = Record(trial, sweep.identity, FAILED, {}, {}, None, [], version_of(paths.splits), TRAINING_CODE)
    chosen = trial_parameters(sweep, trial, _peers(paths, empty), trial_records.load_readable(paths, trial))
    return replace(empty, parameters=chosen, settings=sweep.settings_with(chosen).model_dump())


def finished(paths: Paths, plan: Record) -> Record | None:
    """Return the stored record of this very trial, unless it failed."""
    before = trial_records.load_readable(paths, plan.trial)
    if before is None or before.state == FAILED:
        return None
    same = (plan.parameters, plan.settings, plan.splits_version, plan.code_version)
    known = (before.parameters, before.settings, before.splits_version, before.code_version)
    # the file's keys are sorted, and its lists are tuples here
    return before if json.dumps(known, sort_keys=True) == json.dumps(same, sort_keys=True) else None


def _peers(paths: Paths, record: Record) -> list[Record]:
    """Return the other trials of the sweep that have ended, on the same images and by the same code."""
    return [
        other
        for other in trial_records.load_all(paths, record.sweep)
        if other.trial != record.trial
        and (other.splits_version, other.code_version) == (record.splits_version, record.code_version)
    ]


def train(paths: Paths, sweep: Sweep, plan: Record, job: TrainingJob, run: Train) -> Record:
    """Train a trial, store its record and return it; an interruption is passed on.

    Args:
        paths: where records are stored.
        sweep: the trial's.
        plan: the record of a trial that has not begun.
        job: a training with the settings of the trial.
        run: carries out the training; only a `TrainingFailedError` of it is a failure of the trial.
    """
    job = _in_own_folder(paths, sweep, plan, job)
    record = _record(plan, job, run)
    trial_records.save(paths, record)
    remove_work(paths, plan.trial)
    return record


def remove_work(paths: Paths, trial: str) -> None:
    """Remove the checkpoints and the model of a trial, whose record is stored."""
    shutil.rmtree(_work(paths, trial), ignore_errors=True)


def _work(paths: Paths, trial: str) -> Path:
    return paths.scratch / "sweep" / trial


def _in_own_folder(paths: Paths, sweep: Sweep, plan: Record, job: TrainingJob) -> TrainingJob:
    """Return the job in a folder of its own, apart from another training of the same settings."""
    work = _work(paths, plan.trial)
    thresholds = trial_records.pruning_thresholds(sweep, _peers(paths, plan), job.settings.epochs)
    return job.model_copy(
        update={
            "output": work / "model",
            "checkpoints": work / "checkpoints",
            "pruning_thresholds": thresholds,
            "provenance": {**job.provenance, "sweep": plan.sweep, "trial": plan.trial},
        }
    )


def _record(plan: Record, job: TrainingJob, run: Train) -> Record:
    try:
        messages = run(job)
    except TrainingFailedError as error:
        return replace(plan, state=FAILED, error=str(error))
    pruned = [one["history"] for one in messages if one.get("stopped")]
    history = pruned[-1] if pruned else folder.read_history(job.output)
    value = history[-1]["validation_accuracy"]
    return replace(plan, state=PRUNED if pruned else COMPLETE, value=value, history=history)
