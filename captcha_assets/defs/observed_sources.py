"""Observable sources of the home: the batch catalog, and the files that people write.

A change is an observation of the source, logged without a run: by the next command, or by the sensor.
"""

import warnings
from collections.abc import Iterator, Sequence

import dagster as dg

from captcha_assets.alerts import Alert, send, send_new
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.automation import BY_DAY, OWNERS, SWEEPS, only_when_asked
from captcha_assets.defs.batch_removal import apply_remote_removals
from captcha_assets.defs.dagster_internals import (
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NO_VALUE,
    observed_version,
)
from captcha_assets.defs.killed_runs import fail_killed_runs
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.run_alerts import alert_about
from captcha_assets.defs.sensor_states import is_on
from captcha_assets.defs.serving.drift_alerts import drift_alerts
from captcha_assets.defs.serving.served_days import SENSOR_INTERVAL, changed_days
from captcha_assets.observed_files import (
    BATCH_CATALOG,
    LABEL_DECISIONS,
    OBSERVED_FILES,
    TRAINING_SETTINGS,
    ObservedFile,
    problems,
)
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)


def _data_version(file: ObservedFile, settings: Settings) -> dg.DataVersion:
    found = file.version(settings.paths)
    return dg.DataVersion(found) if found else DEFAULT_DATA_VERSION


def _metadata(file: ObservedFile, settings: Settings) -> dict[str, dg.MetadataValue]:
    return {"path": dg.MetadataValue.path(str(file.path(settings.paths)))}


def changed_sources(
    settings: Settings, instance: dg.DagsterInstance, names: Names = PLAIN
) -> list[dg.AssetObservation]:
    """The observations of the sources that have changed, except those that cannot be used."""
    now = {file: _data_version(file, settings) for file in OBSERVED_FILES if not file.problem(settings.paths)}
    return [
        dg.AssetObservation(
            names.key(file.name), tags={DATA_VERSION_TAG: version.value}, metadata=_metadata(file, settings)
        )
        for file, version in now.items()
        if version != observed_version(instance, names.key(file.name))
    ]


def observe(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Record the sources and days that have changed, and the batches that were removed on other machines."""
    apply_remote_removals(settings.paths, instance)
    for observation in [*changed_sources(settings, instance), *changed_days(settings.paths, instance)]:
        instance.report_runless_asset_event(observation)


def _source(file: ObservedFile, group: str, kind: str, description: str) -> dg.AssetsDefinition:
    spec = dg.AssetSpec(file.name, group_name=group, kinds={kind}, description=description, owners=OWNERS)

    @dg.multi_observable_source_asset(specs=[spec], name=file.name)
    def look(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
        return dg.ObserveResult(
            data_version=_data_version(file, settings), metadata=_metadata(file, settings)
        )

    return look


batch_catalog = _source(
    BATCH_CATALOG,
    "source",
    "json",
    "The registered batches, each with the hash or version of its content. Observed; adding or removing a "
    "batch makes the assets over all batches stale.",
)
label_decisions = _source(
    LABEL_DECISIONS,
    "source",
    "csv",
    "The decisions of people about images whose labels contradict each other: `label_decisions.csv` of "
    "the home. Observed.",
)
training_settings = _source(
    TRAINING_SETTINGS,
    "model",
    "yaml",
    "The production settings of a training: the code's defaults, and over them "
    "`configs/training.yaml` of the home. Observed.",
)


@dg.sensor(
    # A run is of one set of partitions, and trials are only trained when somebody asks for them.
    target=dg.AssetSelection.all() - BY_DAY - dg.AssetSelection.assets(*SWEEPS),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes the batch catalog, `label_decisions.csv`, `configs/training.yaml` and the files of "
    "all assets, so that the UI shows what is missing, damaged or stale. While `automation` is on, it "
    "starts a run for what is missing or damaged, once for each loss. Alerts once of a file that cannot be "
    "used, and of served predictions that drift while no training answers it. Ends the runs of commands that "
    "were killed.",
)
def observed_sources(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Report changes without a run; request a run for what is missing or damaged.

    The cursor holds the alerts that were sent.
    """
    for lost in fail_killed_runs(context.instance):
        alert_about(context.instance, lost, settings)
    apply_remote_removals(settings.paths, context.instance)
    observed = changed_sources(settings, context.instance)
    observed += changed_days(settings.paths, context.instance, SENSOR_INTERVAL)
    return with_losses(context, settings, observed)


def with_losses(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    observed: Sequence[dg.AssetObservation],
    names: Names = PLAIN,
) -> dg.SensorResult:
    """Report what is missing or damaged beside what was observed, request runs for it, and alert."""
    report_losses(settings, context.instance, names)
    automated = is_on(context.instance, names.name("automation"))
    requests = list(restorations(settings, context.instance, names)) if automated else []
    unusable = problems(settings.paths)
    alerts = [Alert("a file of the home cannot be used", (problem,)) for problem in unusable]
    alerts += drift_alerts(settings, context.instance, names)
    skipped = "; ".join(unusable) or "the sources are as they were observed last"
    return dg.SensorResult(
        asset_events=observed,
        run_requests=requests,
        skip_reason=None if observed or requests else skipped,
        cursor=send_new(settings, alerts, context.cursor),
    )


#: Losses that no run can restore: a person has to act.
_ALERTED = {"champion": "files of the champion are missing or damaged", "raw_batch": "an archive is lost"}


def report_losses(settings: Settings, instance: dg.DagsterInstance, names: Names = PLAIN) -> None:
    """Report what is missing or damaged, and send an alert about what a person must act on."""
    for event in lost_outputs.report(settings.paths, instance, names):
        title, problem = _ALERTED.get(event.asset_key.path[-1]), event.description
        if title and problem and (event.tags or {})[DATA_VERSION_TAG] == NO_VALUE:
            address = f"{settings.ui_url}/assets/{event.asset_key.to_user_string()}"
            send(settings, Alert(title, (problem,), address))


#: The assets of one function: Dagster runs both of them, or none.
_IMAGE_TABLES = {"image_table", "rejected_images"}


def restorations(
    settings: Settings, instance: dg.DagsterInstance, names: Names = PLAIN
) -> Iterator[dg.RunRequest]:
    """Yield a run request for each partition that lost something, and one for what is not partitioned.

    A batch that was removed and lies in the inbox again is left to the inbox sensor. The champion is whole
    again when its folder and its export are, and no run of `champion` can restore these.
    """
    wanted: dict[str | None, list[lost_outputs.Loss]] = {}
    for loss in lost_outputs.losses(instance, names):
        if loss.removed and batch_registration.came_by_inbox(settings.paths, str(loss.output.partition)):
            continue
        if loss.output.asset in lost_outputs.OF_DAYS:
            continue  # a run of this sensor has a batch as its partition; `update` materializes the day
        if loss.output.asset != "champion" and dg.AssetKey(loss.output.asset) not in only_when_asked():
            wanted.setdefault(loss.output.partition, []).append(loss)
    for partition, lost in wanted.items():
        assets = {loss.output.asset for loss in lost}
        assets |= _IMAGE_TABLES if assets & _IMAGE_TABLES else set()
        yield dg.RunRequest(
            # One run for each loss, even if it fails: what cannot be restored is not tried for ever.
            run_key="-".join(["restore", *(str(loss.event_id) for loss in lost)]),
            asset_selection=[names.key(asset) for asset in sorted(assets)],
            partition_key=partition,
        )
