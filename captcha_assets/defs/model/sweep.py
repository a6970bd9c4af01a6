"""Sweeps: trials, one partition each, and the leaderboard. The work is in `captcha_assets.sweeps`.

No automation materializes these assets: a trial costs a training.
"""

from collections import Counter
from functools import partial
from typing import Any

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.compute.local_compute import Compute
from captcha_assets.defs.partitions import trials as trial_partitions
from captcha_assets.defs.presentation import column_schema, image, table
from captcha_assets.images import local_tables
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import require_materialized
from captcha_assets.sweeps import leaderboard, trial_records, trial_training
from captcha_assets.sweeps.definition import registered, sweep_of
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED, Record
from captcha_assets.training.config import TRAINING_CODE, TrainingSettings
from captcha_assets.training_jobs import job_for


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
    require_materialized(settings.paths, settings.paths.splits, "splits")
    sweep = registered(settings.paths, sweep_of(name))
    plan = trial_training.planned(settings.paths, sweep, name)
    if record := trial_training.finished(settings.paths, plan):
        context.log.info(f"{name}: {record.state} already, on these images and by this code")
        trial_training.remove_work(settings.paths, name)  # of a process that was killed after it stored that
    else:
        context.log.info(f"{name}: {trial_records.described(plan.parameters)}")
        with local_tables.local_tables(settings.paths) as data:
            job = job_for(settings.paths, dataset, data, TrainingSettings.of(plan.settings), context.run_id)
            record = trial_training.train(settings.paths, sweep, plan, job, partial(compute.run, context))
    if record.state == FAILED:
        raise dg.Failure(f"{name} failed: {record.error}", metadata=_metadata(record), allow_retries=False)
    return dg.MaterializeResult(data_version=dg.DataVersion(record.version), metadata=_metadata(record))


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
        metadata["curves"] = image(plots.training_curves(record.history), "training curves")
    return metadata


@dg.asset(
    deps=[sweep_trial],
    group_name="sweep",
    kinds={"parquet", "matplotlib"},
    code_version="2",
    description="All trials of all sweeps, the best first, with a plot of how each sweep went.",
    metadata=column_schema(leaderboard.SCHEMA, leaderboard.DESCRIPTIONS),
)
def sweep_leaderboard(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Rank the trials. Without any sweep, the leaderboard is empty."""
    from captcha_assets.sweeps import plots

    records = trial_records.load_all(settings.paths)
    version = leaderboard.write(settings.paths, records)
    counted = Counter(record.state for record in records)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            "dagster/row_count": len(records),
            **{state: counted[state] for state in (COMPLETE, PRUNED, FAILED)},
            "path": dg.MetadataValue.path(str(settings.paths.sweep_leaderboard)),
            "first ranks": table(leaderboard.first_ranks(settings.paths, records), leaderboard.SHOWN),
            **{title: image(png, title) for title, png in plots.of_sweeps(records).items()},
        },
    )
