"""Observable sources of the home: the batch catalog, and the files that people write.

A change is an observation of the source, logged without a run: by the next command, or by the sensor.
"""

import warnings
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg

from captcha_assets.alerts import Alert, send
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.alerts import alert_about
from captcha_assets.defs.automation import ONLY_WHEN_ASKED, OWNERS
from captcha_assets.defs.dagster_internals import (
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NO_VALUE,
    observed_version,
)
from captcha_assets.defs.killed_runs import fail_killed_runs
from captcha_assets.defs.removal import apply_remote_removals
from captcha_assets.defs.sensor_switches import is_on
from captcha_assets.images import decisions
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import catalog, registrations
from captcha_assets.storage import AnyPath
from captcha_assets.sweeps.production import problem, production_version

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)


@dataclass(frozen=True)
class ObservedFile:
    """A file: where it lies, and the version of what it says (None: as if nobody had looked at it yet)."""

    name: str
    path: Callable[[Paths], AnyPath]
    version: Callable[[Paths], str | None]
    problem: Callable[[Paths], str | None] = lambda _: None
    """Why the file cannot be used, in one line; None where it can be."""

    def data_version(self, paths: Paths) -> dg.DataVersion:
        """The version as Dagster knows it."""
        found = self.version(paths)
        return dg.DataVersion(found) if found else DEFAULT_DATA_VERSION

    def observation(self, paths: Paths) -> dg.AssetObservation:
        """What there is to say of the file now."""
        tags = {DATA_VERSION_TAG: self.data_version(paths).value}
        return dg.AssetObservation(self.name, tags=tags, metadata=self.metadata(paths))

    def metadata(self, paths: Paths) -> dict[str, Any]:
        """Where it lies."""
        return {"path": dg.MetadataValue.path(str(self.path(paths)))}

    def has_changed(self, paths: Paths, instance: dg.DagsterInstance) -> bool:
        """Whether the file says something else than the instance knows."""
        return observed_version(instance, self.name) != self.data_version(paths)


_CATALOG = ObservedFile("batch_catalog", lambda paths: paths.registrations, catalog.version)
_DECISIONS = ObservedFile(
    "label_decisions",
    lambda paths: paths.label_decisions,
    lambda paths: decisions.version_of(paths.label_decisions),
)
_TRAINING = ObservedFile(
    "training_settings", lambda paths: paths.training_settings, production_version, problem
)
_SOURCES = (_CATALOG, _DECISIONS, _TRAINING)


def changed_sources(settings: Settings, instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    """The observations of the sources that have changed, but of those that cannot be used."""
    return [
        file.observation(settings.paths)
        for file in _SOURCES
        if file.problem(settings.paths) is None and file.has_changed(settings.paths, instance)
    ]


def observe(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Record the sources that have changed, and the batches that were removed on another machine."""
    apply_remote_removals(settings, instance)
    for observation in changed_sources(settings, instance):
        instance.report_runless_asset_event(observation)


def _source(source: ObservedFile, group: str, kind: str, description: str) -> Any:
    spec = dg.AssetSpec(source.name, group_name=group, kinds={kind}, description=description, owners=OWNERS)

    @dg.multi_observable_source_asset(specs=[spec], name=source.name)
    def look(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
        return dg.ObserveResult(
            data_version=source.data_version(settings.paths), metadata=source.metadata(settings.paths)
        )

    return look


batch_catalog = _source(
    _CATALOG,
    "source",
    "json",
    "Which batches are registered, each with what identifies its content: what ought to be. Observed; a "
    "batch that is added or removed makes stale what is made from all batches.",
)
label_decisions = _source(
    _DECISIONS,
    "source",
    "csv",
    "What somebody decided about images whose labels contradict each other: `label_decisions.csv` of the "
    "home. Observed.",
)
training_settings = _source(
    _TRAINING,
    "model",
    "yaml",
    "The production settings of a training: the code's defaults, and over them "
    "`configs/training.yaml` of the home. Observed.",
)


@dg.sensor(
    # A run is of one set of partitions, and trials are only trained when somebody asks for them.
    target=dg.AssetSelection.all() - dg.AssetSelection.assets(*ONLY_WHEN_ASKED),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes the batch catalog, `label_decisions.csv`, `configs/training.yaml` and the files of "
    "all assets, so that what is missing, damaged or out of date is shown so. While `automation` is on, it "
    "starts a run for what is missing or damaged, once for each loss. Alerts once of a file that cannot be "
    "used. Ends the runs of commands that were killed.",
)
def observed_sources(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Report what changed without a run; ask for a run for what is missing or damaged.

    The cursor holds the problem that an alert was sent of.
    """
    for lost in fail_killed_runs(context.instance):
        alert_about(context.instance, lost, settings)
    apply_remote_removals(settings, context.instance)
    observed = changed_sources(settings, context.instance)
    for event in lost_outputs.report(settings.paths, context.instance):
        _alert(settings, event)
    automated = is_on(context.instance, "automation")
    requests = list(_restorations(settings.paths, context.instance)) if automated else []
    problem = _alert_of_problem(settings, context.cursor)
    skipped = problem or "the sources are as they were observed last"
    return dg.SensorResult(
        asset_events=observed,
        run_requests=requests,
        skip_reason=None if observed or requests else skipped,
        cursor=problem or "all sources can be used",
    )


def _alert_of_problem(settings: Settings, alerted: str | None) -> str:
    """Return what is wrong with a source, empty for nothing; alert of it unless that was done before."""
    found = "; ".join(words for source in _SOURCES if (words := source.problem(settings.paths)))
    if found and found != alerted:
        send(settings, Alert("a file of the home cannot be used", (found,)))
    return found


#: What is lost with them no run can make again by itself: somebody has to know.
_ALERTED = {"champion": "the champion is not whole", "raw_batch": "an archive is lost"}


def _alert(settings: Settings, event: dg.AssetMaterialization) -> None:
    """Send an alert of a loss that somebody must act on."""
    title, problem = _ALERTED.get(event.asset_key.to_user_string()), event.description
    if title and problem and (event.tags or {})[DATA_VERSION_TAG] == NO_VALUE:
        send(
            settings, Alert(title, (problem,), f"{settings.ui_url}/assets/{event.asset_key.to_user_string()}")
        )


#: It only points to a model, whose files are others'.
_CHAMPION = dg.AssetKey("champion")


#: The assets of `image_tables`.
_OF_A_BATCH = frozenset({dg.AssetKey("image_table"), dg.AssetKey("rejected_images")})


def _assets_of_its_function(asset: str) -> Set[dg.AssetKey]:
    """Return the assets of the function that makes an asset: Dagster runs all of them, or none."""
    key = dg.AssetKey(asset)
    return _OF_A_BATCH if key in _OF_A_BATCH else {key}


def _restorations(paths: Paths, instance: dg.DagsterInstance) -> Iterator[dg.RunRequest]:
    """Yield a run request for each partition that lost something, and one for what is not partitioned.

    A batch that was removed and lies in the inbox again is the inbox sensor's to ingest. The champion is
    whole again when its folder and its export are, and no run of its own can make them.
    """
    wanted: dict[str | None, list[lost_outputs.Loss]] = {}
    for loss in lost_outputs.losses(instance):
        if loss.removed and registrations.came_by_inbox(paths, str(loss.output.partition)):
            continue
        if dg.AssetKey(loss.output.asset) not in (*ONLY_WHEN_ASKED, _CHAMPION):
            wanted.setdefault(loss.output.partition, []).append(loss)
    for partition, lost in wanted.items():
        yield dg.RunRequest(
            # One run for each loss, whatever becomes of it: what cannot be restored is not tried for ever.
            run_key="-".join(["restore", *(str(loss.event_id) for loss in lost)]),
            asset_selection=sorted(
                {key for loss in lost for key in _assets_of_its_function(loss.output.asset)}
            ),
            partition_key=partition,
        )
