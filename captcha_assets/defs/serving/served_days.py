"""The days of the prediction log in Dagster: one partition a day, whose data version is observed.

A day that is still running gets new rows, and any day may get corrections or rows that were changed: its
version is then another one, and the assets that depend on the day are stale.
"""

import warnings
from datetime import UTC, datetime, timedelta

import dagster as dg

from captcha_assets.atomic_files import remove
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.automation import OWNERS
from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.partitions import DAY, days
from captcha_assets.paths import Paths
from captcha_assets.served_predictions.log_access import day_versions
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, PredictionLogUrlError
from captcha_assets.serving.settings import load_serving_settings
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import Output

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)

SERVED = "served_predictions"

#: A running service writes all the time: the sensor reports a day so often at most.
SENSOR_INTERVAL = timedelta(minutes=15)


@dg.multi_observable_source_asset(
    specs=[
        dg.AssetSpec(
            SERVED,
            partitions_def=days,
            group_name="serving",
            kinds={"sqlalchemy"},
            owners=OWNERS,
            description="The predictions of the service and their corrections, by day: the database of the "
            "prediction log. Observed; new and changed rows make the assets that depend on the day stale.",
        )
    ]
)
def served_predictions(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.ObserveResult:
    """Look at a day of the log; the data version is another one when its rows or corrections change."""
    version = day_versions(settings.paths).get(context.partition_key, "none")
    return dg.ObserveResult(data_version=dg.DataVersion(version))


def changed_days(
    paths: Paths,
    instance: dg.DagsterInstance,
    at_most_every: timedelta | None = None,
    names: Names = PLAIN,
) -> list[dg.AssetObservation]:
    """Give every day its partition, and return the observations of the days that have changed.

    A log that cannot be read has not changed; `log_access.problem` says why it cannot be read.

    Args:
        paths: where things are kept.
        instance: the Dagster instance.
        at_most_every: a day that was observed less than this ago is not observed again yet.
        names: how the assets are called there.
    """
    try:
        versions = day_versions(paths)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return []
    if not versions:
        return []
    known = set(instance.get_dynamic_partitions(names.name(DAY)))
    if new := sorted(versions.keys() - known):
        instance.add_dynamic_partitions(names.name(DAY), new)
    _remove_outputs(paths, instance, known - versions.keys(), names)
    observed = instance.event_log_storage.get_latest_tags_by_partition(
        names.key(SERVED), dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    return [
        dg.AssetObservation(names.key(SERVED), partition=day, tags={DATA_VERSION_TAG: version})
        for day, version in versions.items()
        if observed.get(day, {}).get(DATA_VERSION_TAG) != version
        if not (at_most_every and _is_recent(instance, day, at_most_every, names))
    ]


def _is_recent(instance: dg.DagsterInstance, day: str, interval: timedelta, names: Names) -> bool:
    wanted = dg.AssetRecordsFilter(names.key(SERVED), asset_partitions=[day])
    records = instance.fetch_observations(wanted, limit=1).records
    return any(datetime.now(UTC).timestamp() - one.timestamp < interval.total_seconds() for one in records)


def _remove_outputs(paths: Paths, instance: dg.DagsterInstance, gone: set[str], names: Names) -> None:
    """Remove the outputs of days that the retention has removed from the log.

    A day that is missing for another reason keeps its outputs.
    """
    retention = load_serving_settings().prediction_log_retention
    if retention is None:
        return
    kept_from = (datetime.now(UTC) - timedelta(days=retention)).date().isoformat()
    for day in sorted(day for day in gone if day < kept_from):
        remove(paths.validation_results("prediction_log", day))
        remove(paths.prediction_log(day))
        remove(paths.rejected_predictions(day))
        remove(paths.drift_report(day))
        problem = f"{lost_outputs.REMOVED} the retention removed the predictions of {day}"
        for asset in ("prediction_log", "drift_report"):
            instance.report_runless_asset_event(lost_outputs.lost(Output(asset, day), problem, names))
        instance.delete_dynamic_partition(names.name(DAY), day)
