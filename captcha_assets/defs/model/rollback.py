"""Rollbacks that happen by themselves; decided in `captcha_assets.served_predictions.automatic_rollback`."""

from datetime import UTC, datetime

import dagster as dg

from captcha_assets.alerts import Alert, send_new
from captcha_assets.defs.model.champion_events import report_champion
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.models import registry
from captcha_assets.models.registry import Champion
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, PredictionLogUrlError
from captcha_assets.settings import Settings


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Rolls a new champion back when people correct its predictions more often than those of the "
    "champion before, beyond chance, and alerts. Does nothing unless CAPTCHA_ROLLBACK says how the two are "
    "compared. Starts no run. Off until switched on.",
)
def automatic_rollback(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Compare the champion with its predecessor; the cursor holds the alerts that were sent."""
    return roll_back_worse_champion(context, settings)


def roll_back_worse_champion(
    context: dg.SensorEvaluationContext, settings: Settings, names: Names = PLAIN
) -> dg.SensorResult | dg.SkipReason:
    """Roll the champion back if it is worse by corrections than the one before, and return what was found."""
    from captcha_assets.served_predictions.automatic_rollback import compare, roll_back, was_automatic

    if settings.rollback == "off":
        return dg.SkipReason("CAPTCHA_ROLLBACK is off: no champion is rolled back by itself")
    try:
        finding = compare(settings, datetime.now(UTC))
    except (PredictionLogUnavailableError, PredictionLogUrlError) as error:
        return dg.SkipReason(str(error))
    obstacle = finding.obstacle
    if finding.is_worse and obstacle is None:
        obstacle = roll_back(settings.paths, finding)
    # Told from the history: a process that is killed after the rollback leaves nothing untold.
    serves = registry.champion(settings.paths.models)
    alerts = [_not_rolled_back(finding.champion, obstacle)] if finding.champion and obstacle else []
    if serves and was_automatic(serves):
        report_champion(settings.paths, context.instance, serves, names)
        alerts.append(_rolled_back(serves))
    since = datetime.fromisoformat(serves.since) if serves else None
    cursor = send_new(settings, alerts, context.cursor, since)
    return dg.SensorResult(skip_reason=finding.words, cursor=cursor)


def _rolled_back(serves: Champion) -> Alert:
    again = f"captcha-assets model promote {serves.instead_of} --reason WHY"
    advice = f"{serves.instead_of} is not promoted by itself any more; to promote it all the same: {again}"
    return Alert(f"{serves.instead_of} was rolled back: {serves.model_id} serves", (serves.reason, advice))


def _not_rolled_back(champion: Champion, obstacle: str) -> Alert:
    """Return an alert whose words stay the same while the figures grow, so that it is sent once."""
    advice = (
        "captcha-assets status has the figures; when you have looked into it: "
        "captcha-assets model rollback --reason WHY"
    )
    title = f"{champion.model_id} is worse by corrections than {champion.instead_of}, and serves on"
    return Alert(title, (obstacle, advice))
