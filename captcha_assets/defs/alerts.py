"""What people are told of: failed runs, failed checks, refused candidates. One alert a run.

Runs that a command makes in its own process are told of by the command; these sensors tell of the others.
"""

from collections.abc import Iterator

import dagster as dg

from captcha_assets.alerts import Alert, send
from captcha_assets.defs.failures import reason_of
from captcha_assets.defs.processes import PROCESS_TAG, STEP_TAG
from captcha_assets.settings import Settings

_TOLD_OF = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
}


def alert_of(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> Alert | None:
    """What there is to tell of a finished run; None where all went well."""
    events = [
        entry.dagster_event
        for entry in instance.all_logs(run.run_id, of_type=_TOLD_OF)
        if entry.dagster_event is not None
    ]
    if any(event.is_step_failure for event in events):  # it says more than that the run failed
        events = [event for event in events if event.event_type != dg.DagsterEventType.RUN_FAILURE]
    lines = [line for event in events for line in _lines(event)]
    failed = run.status == dg.DagsterRunStatus.FAILURE
    if not lines and not failed:
        return None
    title = f"{_subject(run)}: {'the run failed' if failed else 'made, but look at it'}"
    return Alert(title, tuple(dict.fromkeys(lines)), f"{settings.ui_url}/runs/{run.run_id}")


def _subject(run: dg.DagsterRun) -> str:
    if step := run.tags.get(STEP_TAG):
        return step
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ())) or run.job_name
    partition = run.tags.get("dagster/partition")
    return f"{assets} [{partition}]" if partition else assets


def _lines(event: dg.DagsterEvent) -> Iterator[str]:
    if event.is_step_failure:
        yield reason_of(event)
    elif event.event_type == dg.DagsterEventType.RUN_FAILURE:
        yield event.message or "failed"
    elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        yield from _failed_check(event.asset_check_evaluation_data)
    elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
        refused = event.step_materialization_data.materialization.metadata.get("refused")
        if refused and refused.value != "no":
            yield f"the candidate was refused: {refused.value}"


def _failed_check(found: dg.AssetCheckEvaluation) -> Iterator[str]:
    if not found.passed:
        level = "failed" if found.severity == dg.AssetCheckSeverity.ERROR else "warns"
        asset = found.asset_key.to_user_string()
        yield f"check {found.check_name} of {asset} {level}: {found.description}"


def tell(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> None:
    """Send the alert of a finished run, if there is anything to tell."""
    if alert := alert_of(instance, run, settings):
        send(settings, alert)


def _tell_of_others(context: dg.RunStatusSensorContext, settings: Settings) -> None:
    """Tell of a run that no command made, once nothing will be tried again."""
    tags = context.dagster_run.tags
    if PROCESS_TAG not in tags and tags.get("dagster/will_retry") != "true":
        tell(context.instance, context.dagster_run, settings)


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="Tells of failed runs: a line in alerts.jsonl, and CAPTCHA_ALERT_WEBHOOK where it is set.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, settings: dg.ResourceParam[Settings]) -> None:
    """Tell of a run that failed."""
    _tell_of_others(context, settings)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="Tells of failed checks and refused candidates in runs that went well otherwise.",
)
def alert_on_success(context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]) -> None:
    """Tell of what someone should look at."""
    _tell_of_others(context, settings)
