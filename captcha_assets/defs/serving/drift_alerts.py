"""The alert about drift in served predictions that starts no training automatically."""

from collections.abc import Sequence

import dagster as dg

from captcha_assets.alerts import Alert
from captcha_assets.defs.model.retraining_sensor import unfinished_training
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.sensor_states import is_on
from captcha_assets.models import retraining_policy, served_drift
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.models.retraining_policy import Situation
from captcha_assets.served_predictions.log_access import waiting_labels
from captcha_assets.settings import Settings
from captcha_assets.sweeps.production_settings import problem, situation_now


def drift_alerts(settings: Settings, instance: dg.DagsterInstance, names: Names = PLAIN) -> list[Alert]:
    """Return the alert of drift that a person must act on: by labels, or by a training. None while one runs.

    Its text stays the same as long as the model drifts, so that it is sent once.
    """
    try:
        alarm = served_drift.alarm(settings.paths)
        if alarm is None or problem(settings.paths) or unfinished_training(instance, names):
            return []
        now = situation_now(settings.paths)
    except (RegistryError, ModelFolderError):
        return []  # the sensor `retraining` and the status say so
    advice = _advice(settings, _off(instance, names), now)
    if advice is None:
        return []
    report = settings.public_url(settings.paths.drift_report(alarm.day) / "report.html")
    return [Alert(f"the predictions of {alarm.model_id} drift", (advice,), report)]


def _advice(settings: Settings, off: Sequence[str], now: Situation) -> str | None:
    """Return what a person must do; None where the sensors do all of it."""
    enough = settings.retrain_corrections
    if not retraining_policy.waits_for_labels(now, retraining_policy.Limits.of(settings)):
        found = (
            "there is new data to learn from"
            if any(sensor.endswith("retraining") for sensor in off)
            else None
        )
    elif now.corrections + waiting_labels(settings.paths) >= enough:
        found = "enough predictions are labelled" if off else None
    else:
        after = f"; {enough:,} corrections, or a new batch, start a training"
        return _LABEL + (f"; then {_train(off)}" if off else after)
    return found and f"{found}: {_train(off)}"


#: What to do where there is too little to learn from.
_LABEL = (
    "label predictions, the least certain first, on the page of the service (Label, at the address that "
    "captcha-assets serve prints)"
)


def _off(instance: dg.DagsterInstance, names: Names) -> list[str]:
    """Return which of the sensors that lead from labels to a training are off."""
    sensors = map(names.name, ("automation", "retraining"))
    return [sensor for sensor in sensors if not is_on(instance, sensor)]


def _train(off: Sequence[str]) -> str:
    names = " and ".join(f"`{sensor}`" for sensor in off)
    return (
        f"train with captcha-assets update, or: captcha-assets automation on (no training starts by itself, "
        f"{names} {'are' if len(off) > 1 else 'is'} off)"
    )
