"""Why the last run of each asset failed, for `status`."""

import dagster as dg

from captcha_assets.defs.failures import reason_of
from captcha_assets.defs.killed_runs import assets_of
from captcha_assets.stored_outputs import Output

_PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED

#: So many runs are looked through for the last try of something.
_LATEST = 50


def last_failures(instance: dg.DagsterInstance) -> dict[Output, str]:
    """Return why the last run of each asset and partition failed, of those whose last run did fail.

    Only the latest runs are looked through.
    """
    tries: dict[Output, dg.DagsterRun] = {}
    for run in instance.get_runs(limit=_LATEST):
        for asset in assets_of(run) or _planned(instance, run):
            tries.setdefault(Output(asset, run.tags.get("dagster/partition")), run)
    failed = {run.run_id for run in tries.values() if run.status == dg.DagsterRunStatus.FAILURE}
    reasons = {run_id: _reasons(instance, run_id) for run_id in failed}
    return {
        output: reasons[run.run_id][output.asset]
        for output, run in tries.items()
        if output.asset in reasons.get(run.run_id, {})
    }


def _planned(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    """Return the assets of a run that does not name them itself, as that of the job `retrain`."""
    logs = instance.all_logs(run.run_id, of_type=_PLANNED)
    events = [entry.dagster_event for entry in logs if entry.dagster_event]
    return {event.asset_key.to_user_string() for event in events if event.asset_key}


def _reasons(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    """Return why a run failed, by the name of each asset that the failed steps were to materialize."""
    logs = instance.all_logs(run_id, of_type={_PLANNED, dg.DagsterEventType.STEP_FAILURE})
    events = [entry.dagster_event for entry in logs if entry.dagster_event]
    failed = {event.step_key: reason_of(event) for event in events if event.is_step_failure}
    planned = [event for event in events if event.event_type == _PLANNED and event.step_key in failed]
    return {event.asset_key.to_user_string(): failed[event.step_key] for event in planned if event.asset_key}
