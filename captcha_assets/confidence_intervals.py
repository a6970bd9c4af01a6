"""Confidence intervals of shares and of the difference of two shares. Light to import."""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of the share `successes / n`; n must be at least 1.

    E. B. Wilson (1927): Probable inference, the law of succession, and statistical inference. Journal of
    the American Statistical Association 22, 209-212.
    """
    z, share = _quantile(confidence), successes / n
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    middle, scale = share + z * z / (2 * n), 1 + z * z / n
    # At 0 and 1 the formula ends a rounding error short of the share itself.
    return Interval(
        max(0.0, min((middle - spread) / scale, share)), min(1.0, max((middle + spread) / scale, share))
    )


def best_of(models: int, successes: int, n: int) -> Interval:
    """Return an interval that holds with 95 % for whichever of several models was chosen by its share.

    The intervals of all of them hold at once (Bonferroni), so that of the chosen one does too.
    """
    return wilson(successes, n, 1 - 0.05 / models)


@lru_cache(maxsize=1024)  # one decision asks for the same interval several times
def paired_difference(gained: int, lost: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Tango's score interval of the difference of two shares that were counted on the same n things.

    T. Tango (1998): Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design. Statistics in Medicine 17, 891-908. It inverts the score test, and so keeps its
    level where the two differ on few things or on none: for `gained = lost = 0` it is ±z²/(n + z²).

    Args:
        gained: things that count for the second share only.
        lost: things that count for the first share only.
        n: all things, at least 1.
        confidence: of the two-sided interval.

    Returns:
        The interval of (second share - first share).
    """
    z = _quantile(confidence)
    # The interval of the difference the other way round is this one mirrored.
    return Interval(_lower(gained, lost, n, z), -_lower(lost, gained, n, z))


def images_needed(margin: float, confidence: float = 0.95) -> int:
    """Return the least n for which `paired_difference(0, 0, n)` lies above -margin, for a margin above 0."""
    z = _quantile(confidence)
    return math.floor(z * z * (1 - margin) / margin) + 1


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _lower(gained: int, lost: int, n: int, z: float) -> float:
    """Return the difference, from -1 to the observed one, at which the score is z, by bisection."""
    low, high = -1.0, (gained - lost) / n
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if _score(gained, lost, n, middle) > z else (low, middle)
    return low


def _score(gained: int, lost: int, n: int, difference: float) -> float:
    """Return Tango's statistic of the hypothesis that the true difference is `difference`."""
    # The probability of a loss that is most likely under the hypothesis: root of a x² + b x + c.
    a, b = 2 * n, (2 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    loss = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * loss + difference * (1 - difference))
    return (gained - lost - n * difference) / math.sqrt(variance) if variance > 0 else math.inf
