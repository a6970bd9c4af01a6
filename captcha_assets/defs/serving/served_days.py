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
from captcha_assets.defs.partitions import DAY, days
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.served_predictions import daily_tables
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
    version = _versions(settings.paths).get(context.partition_key, "none")
    return dg.ObserveResult(data_version=dg.DataVersion(version))


class NoPredictionsError(RuntimeError):
    """Predictions that cannot be read or may not be used; the message says why, and what to do."""


def log_address(paths: Paths) -> str | None:
    """Return the address of the prediction log; None where logging is off."""
    return load_serving_settings().prediction_log_at(paths.home)


def changed_days(
    paths: Paths, instance: dg.DagsterInstance, at_most_every: timedelta | None = None
) -> list[dg.AssetObservation]:
    """Give every day its partition, and return the observations of the days that have changed.

    A log that cannot be read has not changed; `problem` says why it cannot be read.

    Args:
        paths: where things are kept.
        instance: the Dagster instance.
        at_most_every: a day that was observed less than this ago is not observed again yet.
    """
    try:
        versions = _versions(paths)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return []
    if not versions:
        return []
    known = set(instance.get_dynamic_partitions(DAY))
    if new := sorted(versions.keys() - known):
        instance.add_dynamic_partitions(DAY, new)
    _remove_outputs(paths, instance, known - versions.keys())
    observed = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(SERVED), dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG]
    )
    return [
        dg.AssetObservation(SERVED, partition=day, tags={DATA_VERSION_TAG: version})
        for day, version in versions.items()
        if observed.get(day, {}).get(DATA_VERSION_TAG) != version
        if not (at_most_every and _is_recent(instance, day, at_most_every))
    ]


def problem(paths: Paths) -> str | None:
    """Return what of the prediction log cannot be read, in one line; None where all can be, or it is off."""
    try:
        _versions(paths)
        address = log_address(paths)
        lost = daily_tables.without_day(address) if address else []
    except (PredictionLogUnavailableError, PredictionLogUrlError) as error:
        return str(error)
    if lost:
        named = ", ".join(lost[:3]) + ", ..." * (len(lost) > 3)
        return f"the prediction log holds {len(lost)} of no day, since their time cannot be read: {named}"
    return None


def waiting_labels(paths: Paths) -> int:
    """Return how many labelled predictions are in no batch yet; 0 where the log cannot be read."""
    try:
        address = log_address(paths)
        found = address and daily_tables.exists(address) and daily_tables.waiting_corrections(address)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return 0
    return sum(found.values()) if found else 0


def is_readable(paths: Paths) -> bool:
    """Return whether the prediction log can be read, or there is none."""
    try:
        _versions(paths)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return False
    return True


def failed_checks(paths: Paths, day: str) -> list[str]:
    """Return the blocking checks that the predictions of a day failed last."""
    folder = paths.validation_results("prediction_log", day)
    return validation_result.quarantined({day: folder}).get(day, [])


def _versions(paths: Paths) -> dict[str, str]:
    address = log_address(paths)
    return daily_tables.day_versions(address) if address else {}


def _is_recent(instance: dg.DagsterInstance, day: str, interval: timedelta) -> bool:
    wanted = dg.AssetRecordsFilter(dg.AssetKey(SERVED), asset_partitions=[day])
    records = instance.fetch_observations(wanted, limit=1).records
    return any(datetime.now(UTC).timestamp() - one.timestamp < interval.total_seconds() for one in records)


def _remove_outputs(paths: Paths, instance: dg.DagsterInstance, gone: set[str]) -> None:
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
            instance.report_runless_asset_event(lost_outputs.lost(Output(asset, day), problem))
        instance.delete_dynamic_partition(DAY, day)


def require_valid(paths: Paths, day: str) -> None:
    """Raise an error that names the day if its predictions may not be used."""
    try:
        found = validation_result.load(paths.validation_results("prediction_log", day))
    except validation_result.ValidationResultError as error:
        raise NoPredictionsError(str(error)) from error
    if not found.passed:
        raise NoPredictionsError(
            f"the predictions of {day} failed a blocking check: see its report, or the checks of "
            "prediction_log in the UI"
        )
