"""The alert about drift in served predictions that starts no training automatically."""

import dagster as dg

from captcha_assets.alerts import Alert
from captcha_assets.defs.model.sensors import unfinished_training
from captcha_assets.defs.sensor_states import is_on
from captcha_assets.models import retraining, served_drift
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production_settings import problem, situation_now


def drift_alerts(settings: Settings, instance: dg.DagsterInstance) -> list[Alert]:
    """Return the alert of drift that a person must act on: by labels, or by a training. None while one runs.

    Its text stays the same as long as the model drifts, so that it is sent once.
    """
    try:
        alarm = served_drift.alarm(settings.paths)
        if alarm is None or problem(settings.paths) or unfinished_training(instance):
            return []
        now = situation_now(settings.paths)
    except (RegistryError, ModelFolderError):
        return []  # the sensor `retraining` and the status say so
    if retraining.waits_for_labels(now, retraining.Limits.of(settings)):
        advice = (
            "label predictions, the least certain first, on the page of the service (Label, at the address "
            f"that captcha-assets serve prints); {settings.retrain_corrections:,} corrections, or a new "
            "batch, start a training"
        )
    elif not is_on(instance, "retraining"):
        advice = (
            "there is new data to learn from, and `retraining` is off: train with captcha-assets update, "
            "or: captcha-assets automation on"
        )
    else:
        return []
    report = settings.public_url(settings.paths.drift_report(alarm.day) / "report.html")
    return [Alert(f"the predictions of {alarm.model_id} drift", (advice,), report)]
