"""The definitions of a data set beside others in one code location: assets, jobs and sensors under a prefix.

Left out is what belongs to the command line, or to the instance as a whole: sweeps, alerts about runs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from captcha_assets.atomic_files import create
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.automation import automation
from captcha_assets.defs.jobs import everything
from captcha_assets.defs.model.retraining_sensor import (
    RETRAINED,
    request_training,
    retrain,
    retraining_sensor,
)
from captcha_assets.defs.model.rollback import automatic_rollback, roll_back_worse_champion
from captcha_assets.defs.names import Names
from captcha_assets.defs.observed_sources import (
    changed_sources,
    observed_sources,
    with_losses,
)
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.prefixed_assets import PrefixedDataset, prefixed_asset
from captcha_assets.defs.serving.served_days import SENSOR_INTERVAL, changed_days
from captcha_assets.defs.source.inbox_sensor import INGESTED, inbox_sensor, ingest_batch, take_arrivals
from captcha_assets.paths import Paths
from captcha_assets.serving.settings import load_serving_settings
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration

#: The group of assets whose partitions only a command knows.
_LEFT_OUT = "sweep"
#: The group of assets that are partitioned by day.
_BY_DAY = "serving"
#: Materialized when selected by name only.
_BY_NAME = ("quantized_model",)


def prefixed_definitions(plain: Sequence[dg.AssetsDefinition], of: PrefixedDataset) -> dg.Definitions:
    """Return the assets, jobs and sensors of a data set under its prefix.

    Args:
        plain: the assets as a code location with this data set alone has them.
        of: the data set, its prefix and its settings.
    """
    chosen = [one for one in plain if _LEFT_OUT not in one.group_names_by_key.values()]
    assets = [prefixed_asset(one, of) for one in chosen]
    all_keys = [spec.key for one in assets for spec in one.specs]
    specs = [spec for one in assets if one.is_materializable for spec in one.specs]
    without_days = [spec.key for spec in specs if spec.group_name != of.names.name(_BY_DAY)]
    return dg.Definitions(
        assets=assets,
        jobs=_jobs(of.names, without_days),
        sensors=[
            dg.AutomationConditionSensorDefinition(
                of.names.name(automation.name),
                target=dg.AssetSelection.assets(*all_keys),
                description=automation.description,
                default_status=dg.DefaultSensorStatus.STOPPED,
                minimum_interval_seconds=automation.minimum_interval_seconds,
            ),
            _sensor(inbox_sensor, of, take_arrivals, ingest_batch.name),
            _sensor(retraining_sensor, of, request_training, retrain.name),
            _sensor(automatic_rollback, of, roll_back_worse_champion),
            _sources_sensor(of, without_days),
        ],
    )


def _jobs(names: Names, without_days: Sequence[dg.AssetKey]) -> list[Any]:
    default = dg.AssetSelection.assets(*without_days) - names.keys(*_BY_NAME)
    jobs = ((everything, default), (ingest_batch, names.keys(*INGESTED)), (retrain, names.keys(*RETRAINED)))
    return [
        dg.define_asset_job(
            names.name(job.name),
            selection=selection,
            description=job.description,
            executor_def=dg.in_process_executor,
        )
        for job, selection in jobs
    ]


def _sensor(
    plain: dg.SensorDefinition,
    of: PrefixedDataset,
    evaluate: Callable[[dg.SensorEvaluationContext, Settings, Names], dg.SensorResult | dg.SkipReason],
    job: str | None = None,
) -> dg.SensorDefinition:
    """Return a sensor like that of a data set alone, off until it is switched on."""

    @dg.sensor(
        name=of.names.name(plain.name),
        job_name=of.names.name(job) if job else None,
        minimum_interval_seconds=plain.minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=plain.description,
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return evaluate(context, of.settings(), of.names)

    return look


def _sources_sensor(of: PrefixedDataset, without_days: Sequence[dg.AssetKey]) -> dg.SensorDefinition:
    @dg.sensor(
        name=of.names.name(observed_sources.name),
        target=dg.AssetSelection.assets(*without_days),
        minimum_interval_seconds=observed_sources.minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Gives every registered batch its partition, and takes away that of a removed batch. "
        "Observes the batch catalog, `label_decisions.csv`, `configs/training.yaml`, the days of the service "
        "and the files of all assets, so that the UI shows what is missing, damaged or stale. While "
        f"`{of.names.name(automation.name)}` is on, it starts a run for what is missing or damaged, once for "
        "each loss. Alerts once of a file that cannot be used, and of served predictions that drift while no "
        "training answers it.",
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        settings, instance = of.settings(), context.instance
        follow_registrations(settings.paths, instance, of.names)
        observed = changed_sources(settings, instance, of.names)
        observed += _changed_days(settings.paths, instance, of.names)
        return with_losses(context, settings, observed, of.names)

    return look


def _changed_days(paths: Paths, instance: dg.DagsterInstance, names: Names) -> list[dg.AssetObservation]:
    """Return the observations of changed days; none where the environment names one log for all data sets."""
    if load_serving_settings().prediction_log is not None:
        return []
    return changed_days(paths, instance, SENSOR_INTERVAL, names)


def follow_registrations(paths: Paths, instance: dg.DagsterInstance, names: Names) -> None:
    """Give every registered batch its partition, and report those that a command has removed.

    A home that is not there, an unmounted disk for instance, has lost no batch.
    """
    partitions = names.name(BATCH)
    there = set(instance.get_dynamic_partitions(partitions))  # first: a batch is registered before it is here
    if isinstance(paths.registrations, Path) and not paths.registrations.exists():  # a store has no folders
        return
    if not paths.component.exists():  # commands read it
        create(paths.component, f"{names.prefix}\n")
    known = set(batch_registration.known_batches(paths))
    if new := sorted(known - there):
        instance.add_dynamic_partitions(partitions, new)
    for batch in sorted(there - known):
        lost_outputs.report_removed(instance, batch, names)
