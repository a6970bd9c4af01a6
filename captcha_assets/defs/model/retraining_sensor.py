"""Automatic trainings. Their policy is in `captcha_assets.models.retraining_policy`."""

import hashlib
from collections.abc import Sequence

import dagster as dg

from captcha_assets.defs import jobs
from captcha_assets.defs.killed_runs import UNFINISHED, assets_of
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.models import retraining_policy, served_drift
from captcha_assets.models.retraining_policy import Limits, Reason, Situation
from captcha_assets.served_predictions import log_access
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production_settings import problem, situation_now

#: Tag of a run that says why it was started.
WHY_TAG = "captcha_assets/why"

#: What the job `retrain` materializes.
RETRAINED = ("resnet18", "evaluation", "onnx_model", "champion")

retrain = dg.define_asset_job(
    "retrain",
    selection=RETRAINED,
    description="Train, measure, export, and promote if the model is better. "
    f"The tag {WHY_TAG} of a run says why it was started.",
)


@dg.sensor(
    name="retraining",
    job=retrain,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Starts a training when enough new images reached the training split since the last one, "
    "when a new batch's drift check failed, when served predictions drift and there are corrections or "
    "batches to learn from, or when the training's code or configuration changed. Never while a blocking "
    "check of the data fails, never twice for the same situation. Off until switched on.",
)
def retraining_sensor(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Apply the policy; the cursor holds the situation of the last request."""
    return request_training(context, settings)


def request_training(
    context: dg.SensorEvaluationContext, settings: Settings, names: Names = PLAIN
) -> dg.SensorResult | dg.SkipReason:
    """Return the run that the policy asks for, or why it asks for none."""
    if unusable := problem(settings.paths):
        return dg.SkipReason(f"no training: {unusable}")  # `observed_sources` alerts of it
    now = situation_now(settings.paths)
    limits = Limits.of(settings)
    why = retraining_policy.reasons(now, Situation.from_json(context.cursor), limits)
    if not why:
        readable = log_access.is_readable(settings.paths)
        quiet = served_drift.without_alarm(settings.paths, is_log_readable=readable)
        words = retraining_policy.in_words(now, limits, without_alarm=quiet)
        return dg.SkipReason("; ".join([words, *last_unsuccessful_training(context.instance, names)]))
    if under_way := unfinished_training(context.instance, names):
        return dg.SkipReason(f"a training is under way already: run {under_way}")
    return dg.SensorResult(run_requests=[_request(now, why)], cursor=now.to_json())


def last_unsuccessful_training(instance: dg.DagsterInstance, names: Names = PLAIN) -> list[str]:
    """Return how the last automatic training ended, where no model was trained since, and what follows."""
    records = instance.get_run_records(dg.RunsFilter(job_name=names.name(retrain.name)), limit=1)
    how = {dg.DagsterRunStatus.CANCELED: "was canceled", dg.DagsterRunStatus.FAILURE: "failed"}
    trained = instance.fetch_materializations(names.key("resnet18"), limit=100).records
    if not records or records[0].dagster_run.status not in how:
        return []
    run, began = records[0].dagster_run, records[0].create_timestamp.timestamp()
    if any(record.run_id and record.timestamp > began for record in trained):
        return []  # what was lost or restored is reported without a run
    ended = f"the automatic training of this situation, run {run.run_id[:8]}, {how[run.status]}"
    if run.is_complete_and_waiting_to_retry:
        return [f"{ended}, and is retried from its last checkpoint as soon as the daemon runs"]
    return [f"{ended}, and is not started again for the same situation: train with captcha-assets update"]


def _request(now: Situation, why: Sequence[Reason]) -> dg.RunRequest:
    return dg.RunRequest(
        # The situation is in the key: of two ticks that see the same one, the second requests no run.
        run_key=hashlib.sha256(now.to_json().encode()).hexdigest()[:16],
        tags={
            WHY_TAG: "; ".join(reason.words for reason in why),
            "captcha_assets/trigger": ", ".join(reason.trigger for reason in why),
            # What fails for a passing cause goes on from its checkpoint; then silence, and an alert.
            "dagster/max_retries": "2",
        },
    )


def unfinished_training(instance: dg.DagsterInstance, names: Names = PLAIN) -> str | None:
    """Return the id of a run that trains or is going to, whoever started it; None where there is none."""
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        trains = names.key("resnet18").to_user_string() in (assets_of(run) or ())
        if trains or run.job_name in map(names.name, (retrain.name, jobs.everything.name)):
            return run.run_id
    return None
