"""The automatic rollback: a champion that people correct more often than the one before does not stay.

A champion that the rule promoted is compared with its predecessor for `DAYS` days. Of both, the images count
that people answered, or all images: `CAPTCHA_ROLLBACK` says which. It may be looked at as often as one
likes: see `monitoring.error_rate`. What is comparable, and what is not, stands in docs/promotion.md.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from captcha_assets.models import manual_promotion_and_rollback, registry
from captcha_assets.models.manifest import ModelFolderError
from captcha_assets.models.registry import Champion
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.monitoring import error_rate, two_sample
from captcha_assets.monitoring.result import LIMITS
from captcha_assets.paths import Paths
from captcha_assets.served_predictions.image_errors import (
    ServedPeriod,
    image_errors,
    image_statistics,
)
from captcha_assets.serving.prediction_log_tables import STATISTICS
from captcha_assets.serving.settings import load_serving_settings
from captcha_assets.settings import Settings

#: Days before a promotion that count for the predecessor, and after it for the champion: whole weeks.
DAYS = 14
#: Probability that the images of two periods are called different where they are not.
_DIFFERENT_IMAGES = 0.05 / len(STATISTICS)


@dataclass(frozen=True)
class Finding:
    """How the champion compares with its predecessor.

    Attributes:
        words: one line.
        champion: the champion's entry of the history; None where nothing is compared.
        is_worse: whether its error rate by corrections is higher beyond chance.
        obstacle: why a champion that is worse is not rolled back; None where nothing is known against it.
    """

    words: str
    champion: Champion | None = None
    is_worse: bool = False
    obstacle: str | None = None


def compare(settings: Settings, at: datetime) -> Finding:
    """Compare the champion with its predecessor by what people said of their predictions.

    Args:
        settings: with a policy `rollback` that is not off.
        at: the time now.

    Raises:
        RegistryError: the history is damaged.
        PredictionLogUnavailableError: the prediction log cannot be read.
    """
    serving = load_serving_settings()
    url = serving.prediction_log_at(settings.paths)
    if url is None:
        return Finding("nothing is compared: the prediction log is off")
    champion = registry.champion(settings.paths.models)
    if champion is None or champion.instead_of is None:
        return Finding("nothing is compared: no model has replaced another one yet")
    if champion.action == "rollback":
        return Finding(f"nothing is compared: {champion.model_id} serves by a rollback: {champion.reason}")
    # What the retention has removed of the champion's period must not be missing in a denominator.
    length = timedelta(days=min(DAYS, serving.prediction_log_retention or DAYS))
    since = datetime.fromisoformat(champion.since)
    if at >= since + length:
        days = f"{length.days} days" if length.days > 1 else "1 day"
        return Finding(f"nothing is compared: {champion.model_id} has served for {days}")
    before = ServedPeriod(champion.instead_of, since - length, since)
    return _compared(settings, url, champion, before, ServedPeriod(champion.model_id, since, since + length))


def _compared(
    settings: Settings, url: str, champion: Champion, before: ServedPeriod, now: ServedPeriod
) -> Finding:
    (new_wrong, new), (old_wrong, old) = (_counts(settings, url, period) for period in (now, before))
    of_what = "answered images" if settings.rollback == "answered" else "images"
    figures = (
        f"{new_wrong:,} of {new:,} {of_what} corrected as wrong{_percent(new_wrong, new)}; "
        f"{old_wrong:,} of {old:,}{_percent(old_wrong, old)} of {before.model_id} before it"
    )
    if min(new, old) < settings.rollback_images:
        return Finding(f"{figures}: too few, {settings.rollback_images:,} of each are needed", champion)
    if not error_rate.is_higher(new_wrong, new, old_wrong, old, settings.rollback_level):
        return Finding(f"{figures}: not worse beyond chance", champion)
    obstacle = _obstacle(url, champion, before, now)
    return Finding(f"{figures}: worse beyond chance", champion, is_worse=True, obstacle=obstacle)


def _counts(settings: Settings, url: str, period: ServedPeriod) -> tuple[int, int]:
    """Return how many images were read wrong, of how many."""
    found = image_errors(url, period)
    return found.wrong, found.answered if settings.rollback == "answered" else found.images


def _percent(wrong: int, n: int) -> str:
    return f" ({100 * wrong / n:.1f} %)" if n else ""


def _obstacle(url: str, champion: Champion, before: ServedPeriod, now: ServedPeriod) -> str | None:
    if champion.by == "human":
        return "a person promoted it"
    different = _different(image_statistics(url, before), image_statistics(url, now))
    if different is None:
        return None
    return f"the images are others than before ({different}): the error rates say little of the models"


def _different(before: NDArray[np.float64], now: NDArray[np.float64]) -> str | None:
    """Return the first statistic in which the images of two periods differ; None where they are alike."""
    for name, *columns in zip(STATISTICS, before.T, now.T, strict=True):
        old, new = (column[np.isfinite(column)] for column in columns)
        if not (len(old) and len(new)):
            continue
        distance = two_sample.ks_distance(old, new)
        p_value = two_sample.ks_p_value(distance, len(old) * len(new) / (len(old) + len(new)))
        if distance >= LIMITS["input statistics"].tolerated and p_value <= _DIFFERENT_IMAGES:
            return name.replace("_", " ")
    return None


def roll_back(paths: Paths, finding: Finding) -> str | None:
    """Let the predecessor serve again: once, and only while the champion is the one that was compared.

    Args:
        paths: where the registry lies.
        finding: of a champion that is worse.

    Returns:
        Why the predecessor cannot serve; None where it does, or the champion was changed meanwhile.
    """
    champion = finding.champion
    assert champion is not None
    reason = f"error rate by corrections: {finding.words}"
    try:
        manual_promotion_and_rollback.roll_back(
            paths, reason, champion.instead_of, by="rule", instead_of=champion
        )
    except (RegistryError, ModelFolderError) as error:
        return str(error) if registry.champion(paths.models) == champion else None
    return None


def was_automatic(champion: Champion) -> bool:
    """Whether an entry of the history is an automatic rollback."""
    return champion.action == "rollback" and champion.by == "rule"
