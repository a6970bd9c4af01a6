"""Reports the state of the files to Dagster, so that its staleness, `status`, `update` and the sensors agree.

Dagster knows what was materialized, not what became of it. Where a file is missing or damaged, or a batch was
removed or registered with other content, a materialization without a run is reported whose data version is
Dagster's own for "no value": Dagster then calls the asset missing, and what depends on it stale. When the
content is back, the last real materialization is reported again, and everything is as before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG, NO_VALUE
from captcha_assets.defs.input_versions import recorded_versions, version_of
from captcha_assets.defs.materializations import last_materialized, records_of
from captcha_assets.defs.model.champion_events import report_champion, report_criteria
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.partitions import BATCH, DAY, TRIAL
from captcha_assets.models import registry
from captcha_assets.paths import Paths
from captcha_assets.sources import dvc_snapshot
from captcha_assets.stored_outputs import KNOWN_ASSETS, NO_CHAMPION, Output, Stored, StoredVersions

#: How the problem of what was removed on purpose begins.
REMOVED = "removed:"

#: Metadata of a reported loss: what is wrong.
PROBLEM = "on disk"

#: Metadata of `data_snapshot`: the DVC remote that has the data.
PUSHED_TO = "pushed to"

#: The partition set of each stored asset that is partitioned.
_PARTITIONED = {
    "raw_batch": BATCH,
    "image_table": BATCH,
    "rejected_images": BATCH,
    "sweep_trial": TRIAL,
    "prediction_log": DAY,
    "corrections": DAY,
    "drift_report": DAY,
}
#: The stored assets that are partitioned by day.
OF_DAYS = frozenset(asset for asset, partition_set in _PARTITIONED.items() if partition_set == DAY)
_MODEL = "model"
_CHAMPION = Output("champion")

#: Statuses of runs that may be writing now.
_WRITING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

#: Events that say which steps of a run are under way, and what they materialize.
_STEPS = {
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.STEP_START,
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
}


def report(
    paths: Paths, instance: dg.DagsterInstance, names: Names = PLAIN, *, verify: bool = False
) -> list[dg.AssetMaterialization]:
    """Report the events that make Dagster's record agree with the disk, and return those of the outputs.

    A champion that was changed and is whole is no loss: it is reported as `report_champion` does. What a run
    may be writing at this moment is left for the next look.

    Args:
        paths: where things are kept.
        instance: where it is reported.
        names: how the assets are called there.
        verify: read every file, whatever its size and times say.
    """
    writing, recorded = _being_written(instance, names), _recorded(instance, names)
    versions = StoredVersions(paths, verify=verify)
    if verify and paths.profile == "local":
        dvc_snapshot.verify_remote(paths.home, paths.dvc_remote)
    found = {output: _look(paths, instance, output, versions, names) for output in recorded}
    versions.save()
    writing |= _being_written(instance, names)
    now = _recorded(instance, names)
    settled = {
        output: stored
        for output, stored in found.items()
        if output.asset not in writing and now.get(output) == recorded[output]
    }
    if _champion_changed(instance, settled.get(_CHAMPION, Stored()), names):
        del settled[_CHAMPION]
        if serves := registry.champion(paths.models):
            report_champion(paths, instance, serves, names)
    events = [
        event
        for output, stored in settled.items()
        for event in _event(instance, output, recorded[output], stored, names)
    ]
    for event in events:
        instance.report_runless_asset_event(event)
    restored = settled.get(_CHAMPION, Stored()).version
    if restored and recorded[_CHAMPION] == NO_VALUE and (serves := registry.champion(paths.models)):
        report_criteria(paths, instance, serves, names)
    return events


def _champion_changed(instance: dg.DagsterInstance, stored: Stored, names: Names) -> bool:
    """Whether another champion serves than Dagster knows, and is whole: a change, no loss.

    The command that changes it reports it as well, a moment after the change.
    """
    if stored.version in (None, NO_CHAMPION):
        return False
    last = last_materialized(instance, _CHAMPION, names)
    return last is not None and (last.tags or {})[DATA_VERSION_TAG] != stored.version


def _being_written(instance: dg.DagsterInstance, names: Names) -> set[str]:
    """Return the assets whose steps are under way now, in whatever run."""
    found: set[dg.AssetKey] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=_WRITING)):
        logs = instance.all_logs(run.run_id, of_type=_STEPS)
        found |= _assets_of_active_steps(entry.dagster_event for entry in logs if entry.dagster_event)
    return {asset for key in found if (asset := names.asset(key))}


def _assets_of_active_steps(events: Iterable[dg.DagsterEvent]) -> set[dg.AssetKey]:
    """Return the assets of the steps that have started and not ended."""
    assets: dict[str | None, set[dg.AssetKey]] = {}
    active: set[str | None] = set()
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED and event.asset_key:
            assets.setdefault(event.step_key, set()).add(event.asset_key)
        elif event.event_type == dg.DagsterEventType.STEP_START:
            active.add(event.step_key)
        else:
            active.discard(event.step_key)
    return set().union(*(assets.get(step, set()) for step in active))


def _recorded(instance: dg.DagsterInstance, names: Names) -> dict[Output, str]:
    """Return the data version that Dagster knows of every output that was ever materialized."""
    found: dict[Output, str] = {}
    for asset, partition_set in _PARTITIONED.items():
        there = set(instance.get_dynamic_partitions(names.name(partition_set)))
        versions = recorded_versions(instance, asset, names)
        found |= {Output(asset, key): version for key, version in versions.items() if key in there}
    others = {names.key(asset): asset for asset in sorted(KNOWN_ASSETS - _PARTITIONED.keys())}
    events = instance.event_log_storage.get_latest_materialization_events(list(others))  # one query for all
    for key, asset in others.items():
        event = events.get(key)
        known = event.asset_materialization if event else None
        if known and DATA_VERSION_TAG in (known.tags or {}):
            model = known.metadata.get(_MODEL)
            output = Output(asset, model=str(model.value) if model else None)
            found[output] = (known.tags or {})[DATA_VERSION_TAG]
    return found


def _look(
    paths: Paths, instance: dg.DagsterInstance, output: Output, versions: StoredVersions, names: Names
) -> Stored:
    """Return the state on disk, where it agrees with what only Dagster recorded."""
    stored = versions.look(output)
    if stored.version is None or output.asset != "data_snapshot":
        return stored
    last = last_materialized(instance, output, names)
    problem = last and _not_pushed(paths, last)
    return Stored(problem=problem) if problem else stored


def _not_pushed(paths: Paths, last: dg.AssetMaterialization) -> str | None:
    """Say whether the last snapshot was pushed to another remote, or the remote has lost some of it."""
    if lost := dvc_snapshot.missing_on_remote(paths.home):
        return lost
    remote = dvc_snapshot.default_remote(paths.home, paths.dvc_remote)
    pushed_to = last.metadata.get(PUSHED_TO)
    if remote is None or pushed_to is None or pushed_to.value == remote:
        return None
    return f"not pushed yet to the DVC remote {remote}"


def _event(
    instance: dg.DagsterInstance, output: Output, recorded: str, stored: Stored, names: Names
) -> Iterator[dg.AssetMaterialization]:
    """Yield the event that Dagster lacks of one output, if any."""
    if stored.version == recorded:
        return
    if recorded != NO_VALUE:
        holds = f"{stored.path} does not hold" if stored.path else "nothing holds"
        changed = f"changed: {holds} what was materialized"
        yield lost(output, stored.problem or changed, names)
    elif stored.version is not None:
        yield from _restored(instance, output, stored.version, names)
    elif stored.problem and _is_another(stored.problem, problem_of(instance, output, names)):
        yield lost(output, stored.problem, names)


def _is_another(problem: str, reported: str | None) -> bool:
    """Whether something else is wrong now; a removal stays the reason although its files are missing."""
    return reported is None or (problem != reported and not reported.startswith(REMOVED))


def lost(output: Output, problem: str, names: Names = PLAIN) -> dg.AssetMaterialization:
    """Return the event that says that an output is not there any more, and why."""
    metadata: dict[str, Any] = {PROBLEM: problem}
    if output.model:
        metadata[_MODEL] = output.model
    return dg.AssetMaterialization(
        names.key(output.asset),
        partition=output.partition,
        description=problem,
        metadata=metadata,
        tags={DATA_VERSION_TAG: NO_VALUE},
    )


def _restored(
    instance: dg.DagsterInstance, output: Output, version: str, names: Names
) -> Iterator[dg.AssetMaterialization]:
    """Yield the last materialization that had a value again, if its content is back."""
    event = last_materialized(instance, output, names)
    if event is not None and (event.tags or {})[DATA_VERSION_TAG] == version:
        words = dg.MetadataValue.text("restored: the same content is back")
        yield event._replace(metadata={**event.metadata, PROBLEM: words})


def problem_of(instance: dg.DagsterInstance, output: Output, names: Names = PLAIN) -> str | None:
    """Return what is wrong with an output that was materialized once; None where nothing was reported."""
    for record in instance.fetch_materializations(records_of(output, names), limit=1).records:
        event = record.asset_materialization
        if event and (event.tags or {}).get(DATA_VERSION_TAG) == NO_VALUE:
            return str(event.metadata[PROBLEM].value)
    return None


def report_removed(instance: dg.DagsterInstance, batch: str, names: Names = PLAIN) -> None:
    """Report that all of a batch is gone, and delete its partition. The same again changes nothing."""
    for asset, partition_set in _PARTITIONED.items():
        if partition_set == BATCH and version_of(instance, asset, batch, names) is not None:
            event = lost(Output(asset, batch), f"{REMOVED} batch {batch} was removed", names)
            instance.report_runless_asset_event(event)
    instance.delete_dynamic_partition(names.name(BATCH), batch)


@dataclass(frozen=True)
class Loss:
    """An output that was materialized once and is not there now; the id of the event that says so.

    `removed`: its batch was removed, and the name has been registered again since.
    """

    output: Output
    event_id: int
    removed: bool = False


def losses(instance: dg.DagsterInstance, names: Names = PLAIN) -> list[Loss]:
    """Return what was materialized once and is missing, damaged or out of date on disk."""
    found = []
    for output, recorded in _recorded(instance, names).items():
        if recorded == NO_VALUE:
            (record,) = instance.fetch_materializations(records_of(output, names), limit=1).records
            event = record.asset_materialization
            problem = str(event.metadata[PROBLEM].value) if event else ""
            found.append(Loss(output, record.storage_id, problem.startswith(REMOVED)))
    return found
