"""The file of decisions about labels: a source that Dagster watches, so that a change of it is seen."""

import dagster as dg
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    extract_data_version_from_entry,
)

from captcha_assets.defs.automation import OWNERS
from captcha_assets.images import decisions
from captcha_assets.settings import Settings

_KEY = dg.AssetKey("label_decisions")


@dg.multi_observable_source_asset(
    specs=[
        dg.AssetSpec(
            _KEY,
            group_name="source",
            kinds={"csv"},
            description="What somebody decided about images whose labels contradict each other: "
            "`label_decisions.csv` of the home. Observed, never made.",
            owners=OWNERS,
        )
    ]
)
def label_decisions(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
    """Look at the file; the data version is a hash of its content."""
    return dg.ObserveResult(data_version=_version(settings), metadata=_metadata(settings))


def unseen_decisions(settings: Settings, instance: dg.DagsterInstance) -> dg.AssetObservation | None:
    """What to tell the instance about the file of decisions, None where it knows."""
    record = instance.get_latest_data_version_record(_KEY, is_source=True)
    version = _version(settings)
    if record is not None and extract_data_version_from_entry(record.event_log_entry) == version:
        return None
    tags = {DATA_VERSION_TAG: version.value}
    return dg.AssetObservation(_KEY, tags=tags, metadata=_metadata(settings))


def _version(settings: Settings) -> dg.DataVersion:
    # Without a file it is what Dagster takes for granted of a source that nobody has looked at yet.
    found = decisions.version_of(settings.label_decisions)
    return dg.DataVersion(found) if found else DEFAULT_DATA_VERSION


def _metadata(settings: Settings) -> dict[str, dg.MetadataValue]:
    return {"path": dg.MetadataValue.path(settings.label_decisions)}


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Notes a change of `label_decisions.csv`, so that what depends on it is shown as out of "
    "date. Starts no run.",
)
def label_decisions_sensor(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Observe the file without a run when it is not as it was."""
    found = unseen_decisions(settings, context.instance)
    if found is None:
        return dg.SkipReason(f"{settings.label_decisions} is as it was")
    return dg.SensorResult(asset_events=[found])
