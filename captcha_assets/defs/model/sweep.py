"""Sweeps: trials, one partition each, and the leaderboard. The work is in `captcha_assets.sweeps`.

No automation materializes these assets: a trial costs a training.
"""

import dataclasses
import json
import shutil
from collections import Counter
from typing import Any

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs import required_inputs
from captcha_assets.defs.compute import Compute, RemoteHostFailedError, TrainingFailedError
from captcha_assets.defs.model.training import TRAINING_CODE, job_for
from captcha_assets.defs.partitions import trials as trial_partitions
from captcha_assets.defs.presentation import column_schema, picture
from captcha_assets.images import local
from captcha_assets.images.table import content_hash
from captcha_assets.models import folder
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sweeps import leaderboard, trials
from captcha_assets.sweeps.definition import Sweep, registered, sweep_of
from captcha_assets.sweeps.trial_parameters import trial_parameters
from captcha_assets.sweeps.trials import COMPLETE, FAILED, PRUNED, Record
from captcha_assets.training.config import TrainingJob, TrainingSettings

#: Rows of the leaderboard that its metadata show.
_SHOWN = 20


@dg.asset(
    partitions_def=trial_partitions,
    deps=["splits"],
    group_name="sweep",
    kinds={"pytorch", "lightning", "optuna"},
    code_version=TRAINING_CODE,
    pool="sweep",
    description="One training of a sweep: its settings, its state (complete, pruned or failed), and the "
    "metrics of every epoch. No model is kept.",
)
def sweep_trial(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    compute: dg.ResourceParam[Compute],
    dataset: dg.ResourceParam[DatasetSpec],
) -> dg.MaterializeResult:
    """Train with the settings of this trial, in a process of its own, and store its record."""
    name = context.partition_key
    required_inputs.require(settings.paths, settings.paths.splits, "splits")
    sweep = registered(settings.paths, sweep_of(name))
    record = _planned(settings.paths, sweep, name)
    if finished := _finished(settings.paths, record):
        context.log.info(f"{name}: {finished.state} already, on these images and by this code")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(finished.version), metadata=_metadata(finished)
        )
    with local.local_tables(settings.paths) as data:
        training = TrainingSettings.of(record.settings)
        job = job_for(settings.paths, dataset, data, training, context.run_id)
        job = _of_trial(
            settings.paths,
            job,
            record,
            trials.pruning_thresholds(sweep, _peers(settings.paths, record), training.epochs),
        )
        context.log.info(f"{name}: {trials.described(record.parameters)}")
        record = _train(context, compute, job, record)
    trials.save(settings.paths, record)
    shutil.rmtree(job.output.parent)
    if record.state == FAILED:
        raise dg.Failure(f"{name} failed: {record.error}", metadata=_metadata(record), allow_retries=False)
    return dg.MaterializeResult(data_version=dg.DataVersion(record.version), metadata=_metadata(record))


def _planned(paths: Paths, sweep: Sweep, name: str) -> Record:
    """Return the record of a trial that has not begun."""
    empty = Record(name, sweep.identity, FAILED, {}, {}, None, [], content_hash(paths.splits), TRAINING_CODE)
    before = trials.load(paths, name)
    chosen = trial_parameters(sweep, name, _peers(paths, empty), before)
    whole = sweep.settings_with(chosen).model_dump()
    return dataclasses.replace(empty, parameters=chosen, settings=whole)


def _finished(paths: Paths, planned: Record) -> Record | None:
    """Return the stored record of this very trial, unless it failed."""
    before = trials.load(paths, planned.trial)
    if before is None or before.state == FAILED:
        return None
    same = (planned.parameters, planned.settings, planned.splits_version, planned.code_version)
    known = (before.parameters, before.settings, before.splits_version, before.code_version)
    # the file's keys are sorted, and its lists are tuples here
    return before if json.dumps(known, sort_keys=True) == json.dumps(same, sort_keys=True) else None


def _peers(paths: Paths, record: Record) -> list[Record]:
    """Return the other trials of the sweep that have ended, on the same images and by the same code."""
    return [
        other
        for other in trials.load_all(paths, record.sweep)
        if other.trial != record.trial
        and (other.splits_version, other.code_version) == (record.splits_version, record.code_version)
    ]


def _of_trial(
    paths: Paths, job: TrainingJob, record: Record, pruning_thresholds: dict[int, float]
) -> TrainingJob:
    """Return the job in a folder of its own, apart from another training of the same settings."""
    work = paths.scratch / "sweep" / record.trial
    return job.model_copy(
        update={
            "output": work / "model",
            "checkpoints": work / "checkpoints",
            "pruning_thresholds": pruning_thresholds,
            "provenance": {**job.provenance, "sweep": record.sweep, "trial": record.trial},
        }
    )


def _train(context: dg.AssetExecutionContext, compute: Compute, job: TrainingJob, record: Record) -> Record:
    """Train and return the record; an interruption is passed on."""
    try:
        said = compute.run(context, job)
    except RemoteHostFailedError:
        raise  # the trial itself did not fail
    except TrainingFailedError as error:
        return dataclasses.replace(record, state=FAILED, error=str(error))
    stopped = [one["history"] for one in said if one.get("stopped")]
    history = stopped[-1] if stopped else folder.read_history(job.output)
    value = history[-1]["validation_accuracy"]
    return dataclasses.replace(record, state=PRUNED if stopped else COMPLETE, value=value, history=history)


def _metadata(record: Record) -> dict[str, Any]:
    from captcha_assets.evaluation import plots

    metadata: dict[str, Any] = {
        "state": record.state,
        "epochs": len(record.history),
        "parameters": dg.MetadataValue.json(record.parameters),
        "settings": dg.MetadataValue.json(record.settings),
        "splits": record.splits_version,
    }
    if record.value is not None:
        metadata["validation accuracy"] = round(record.value, 4)
        metadata["curves"] = picture(plots.training_curves(record.history), "training curves")
    return metadata


@dg.asset(
    deps=[sweep_trial],
    group_name="sweep",
    kinds={"parquet", "matplotlib"},
    code_version="2",
    description="All trials of all sweeps, the best first, with a picture of how each sweep went.",
    metadata=column_schema(leaderboard.SCHEMA, leaderboard.DESCRIPTIONS),
)
def sweep_leaderboard(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Rank the trials. Without any sweep, the leaderboard is empty."""
    records = trials.load_all(settings.paths)
    version = leaderboard.write(settings.paths, records)
    counted = Counter(record.state for record in records)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/row_count": len(records),
            **{state: counted[state] for state in (COMPLETE, PRUNED, FAILED)},
            "path": dg.MetadataValue.path(str(settings.paths.sweep_leaderboard)),
            **_best(settings.paths, records),
            **_pictures(records),
        },
    )


def _best(paths: Paths, records: list[Record]) -> dict[str, Any]:
    """Return the first ranks, as a table."""
    first = leaderboard.rows(records, leaderboard.splits_now(paths))[:_SHOWN]
    columns = ("rank", "trial", "state", "accuracy", "epochs", "parameters")
    shown = [{name: "" if row[name] is None else str(row[name]) for name in columns} for row in first]
    schema = dg.TableSchema([dg.TableColumn(name) for name in columns])
    return {"first ranks": dg.MetadataValue.table([dg.TableRecord(row) for row in shown], schema)}


def _pictures(records: list[Record]) -> dict[str, Any]:
    from captcha_assets.sweeps import plots

    made = {}
    for sweep in sorted({record.sweep for record in records}):
        members = [record for record in records if record.sweep == sweep]
        made[f"{sweep}: trials"] = picture(plots.progress(members), "accuracy of the trials")
        if any(record.value is not None for record in members):
            made[f"{sweep}: parameters"] = picture(plots.parameters(members), "accuracy by parameter")
    return made
