"""Alerts about runs that a person must act on, one alert a run.

A command alerts about its own runs; the sensors alert about all others.
"""

from collections.abc import Sequence

import dagster as dg

from captcha_assets.alerts import Alert, send, was_sent
from captcha_assets.defs.automation import without_policy
from captcha_assets.defs.failures import failed_with, reason_of
from captcha_assets.defs.images.checks import DRIFT
from captcha_assets.defs.killed_runs import PROCESS_TAG, STEP_TAG, assets_in_words
from captcha_assets.defs.sensor_states import switched_on
from captcha_assets.defs.serving.drift import SERVED_DRIFT
from captcha_assets.images.table_files import MissingTableError
from captcha_assets.settings import Settings

_LOOKED_AT = {
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
}
_BATCHES = dg.AssetKey("image_table")
_CHAMPION = dg.AssetKey("champion")

_Events = Sequence[dg.DagsterEvent]
#: The title and the lines of an alert; None where there is nothing to act on.
_Content = tuple[str, list[str]] | None


def alert_of(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> Alert | None:
    """Return the alert about a finished run; None where nobody must act on it.

    A check that only warns is no alert: the UI, the reports and `status` show it. Drift of a batch that is
    materialized again with the same content is no second alert.
    """
    events = [
        entry.dagster_event
        for entry in instance.all_logs(run.run_id, of_type=_LOOKED_AT)
        if entry.dagster_event is not None
    ]
    if _is_mended_by_automation(instance, run, events):
        return None
    found = (
        _quarantined(run, events)
        or _blocked(events)
        or _failed(instance, run, events)
        or _not_promoted(events)
    )
    if found is None:
        drift = _drifted(instance, run, events)
        alert = drift and _alert(drift, run, settings)
        return None if alert is None or was_sent(settings.paths.alerts, alert) else alert
    return _alert(found, run, settings)


def _alert(content: tuple[str, list[str]], run: dg.DagsterRun, settings: Settings) -> Alert:
    title, lines = content
    return Alert(title, tuple(dict.fromkeys(lines)), f"{settings.ui_url}/runs/{run.run_id}")


def _is_mended_by_automation(instance: dg.DagsterInstance, run: dg.DagsterRun, events: _Events) -> bool:
    """Whether a run failed only because a batch was removed or a table was lost meanwhile.

    The automation then materializes the missing table, or alerts of why it cannot, and the assets of the run;
    but no model, since the sensor `retraining` starts no second training for the same situation.
    """
    steps = [event for event in events if event.is_step_failure]
    left = {key.to_user_string() for key in without_policy()}
    met = bool(steps) and all(
        failed_with(step, MissingTableError) and step.step_key not in left for step in steps
    )
    return met and PROCESS_TAG not in run.tags and switched_on(instance)["automation"]


def _failed_checks(events: _Events) -> list[dg.AssetCheckEvaluation]:
    checks = [
        event.asset_check_evaluation_data
        for event in events
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return [check for check in checks if not check.passed]


def _blocking(events: _Events) -> list[dg.AssetCheckEvaluation]:
    """Return the blocking checks that failed: only these, and critical drift, have the severity of an error.

    `observed_sources` alerts of drift in served predictions.
    """
    failed = [check for check in _failed_checks(events) if check.severity == dg.AssetCheckSeverity.ERROR]
    return [check for check in failed if check.check_name != SERVED_DRIFT.name]


def _quarantined(run: dg.DagsterRun, events: _Events) -> _Content:
    failed = [check for check in _blocking(events) if check.asset_key == _BATCHES]
    if not failed:
        return None
    batch = failed[0].partition or _partition(run)
    advice = (
        f"the other batches are used without it; see {_report(failed[0])}, correct its images and add it "
        "again under the same name and path (captcha-assets batch add), or remove it "
        f"(captcha-assets batch remove {batch})"
    )
    return f"batch {batch} is quarantined", [*_in_words(failed), advice]


def _blocked(events: _Events) -> _Content:
    failed = _blocking(events)
    if not failed:
        return None
    assets = ", ".join(sorted({check.asset_key.to_user_string() for check in failed}))
    advice = (
        f"nothing that depends on {assets} is materialized until it passes: see {_report(failed[0])}, "
        "correct the inputs, then: captcha-assets update"
    )
    return f"{assets}: a blocking check failed", [*_in_words(failed), advice]


def _failed(instance: dg.DagsterInstance, run: dg.DagsterRun, events: _Events) -> _Content:
    if run.status != dg.DagsterRunStatus.FAILURE:
        return None
    steps = [event for event in events if event.is_step_failure]  # they say more than that the run failed
    runs = [event for event in events if event.event_type == dg.DagsterEventType.RUN_FAILURE]
    reasons = [reason_of(step) for step in steps] or [event.message or "failed" for event in runs]
    return f"{_subject(instance, run)}: the run failed", [
        *reasons,
        "when the cause is corrected: captcha-assets update",
    ]


def _not_promoted(events: _Events) -> _Content:
    for event in events:
        if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key == _CHAMPION:
            found = event.step_materialization_data.materialization.metadata
            candidate = found["candidate"].value
            if candidate != found["champion"].value:
                command = f"captcha-assets model promote {candidate} --reason WHY"
                lines = [str(found["why"].value), f"to promote it all the same: {command}"]
                return f"candidate {candidate} is not promoted, the champion keeps serving", lines
    return None


def _drifted(instance: dg.DagsterInstance, run: dg.DagsterRun, events: _Events) -> _Content:
    """Drift is to be acted on only where nothing else does: `update` and the sensor `retraining` retrain."""
    found = [check for check in _failed_checks(events) if check.check_name == DRIFT.name]
    if not found or PROCESS_TAG in run.tags or switched_on(instance)["retraining"]:
        return None
    batch = found[0].partition or _partition(run)
    advice = (
        f"no training starts automatically, `retraining` is off: see {_report(found[0])}, then train with "
        "captcha-assets update, or: captcha-assets automation on"
    )
    return f"batch {batch} does not look like the training images", [*_in_words(found), advice]


def _in_words(checks: Sequence[dg.AssetCheckEvaluation]) -> list[str]:
    return [f"{check.description} ({check.check_name})" for check in checks]


def _report(check: dg.AssetCheckEvaluation) -> str:
    linked = check.metadata.get("report")
    return str(linked.value) if linked else f"the check {check.check_name} in the UI"


def _partition(run: dg.DagsterRun) -> str:
    return run.tags.get("dagster/partition", "unknown")


def _subject(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    if step := run.tags.get(STEP_TAG):
        return step
    assets = assets_in_words(instance, run)
    partition = run.tags.get("dagster/partition")
    return f"{assets} [{partition}]" if partition else assets


def alert_about(instance: dg.DagsterInstance, run: dg.DagsterRun, settings: Settings) -> None:
    """Send the alert about a finished run, if somebody must act on it."""
    if alert := alert_of(instance, run, settings):
        send(settings, alert)


def _alert_about_others(context: dg.RunStatusSensorContext, settings: Settings) -> None:
    """Alert about a run of the daemon, once it is not retried any more."""
    tags = context.dagster_run.tags
    if PROCESS_TAG not in tags and tags.get("dagster/will_retry") != "true":
        alert_about(context.instance, context.dagster_run, settings)


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="Alerts about failed runs and quarantined batches: a line in alerts.jsonl, and a message to "
    "CAPTCHA_ALERT_WEBHOOK where it is set.",
)
def alert_on_failure(context: dg.RunFailureSensorContext, settings: dg.ResourceParam[Settings]) -> None:
    """Alert about a run that failed."""
    _alert_about_others(context, settings)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="After successful runs: alerts about candidates that are not promoted, and about drift where "
    "nothing retrains.",
)
def alert_on_success(context: dg.RunStatusSensorContext, settings: dg.ResourceParam[Settings]) -> None:
    """Alert about a run that succeeded, where a person must act on its result."""
    _alert_about_others(context, settings)
