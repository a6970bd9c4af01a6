"""The error rate that corrections prove, with a confidence sequence that may be evaluated every day.

People correct what they look at, which is no random choice: of wrong predictions they may find few, and of
what they correct nearly all is wrong. What holds whatever they choose: each corrected prediction was wrong,
so that the error rate of all predictions is at least their share. This lower bound is tested.

Each prediction is a bet on "wrong" at odds that are fair if the error rate is the tolerated one. The capital
of the bettor, the mean over many sizes of the bet, exceeds 1/alpha with a probability of at most alpha at
any time at all, however often one looks (Ville's inequality). Every correction raises it, so that one which
comes late cannot have raised a false alarm before.

I. Waudby-Smith, A. Ramdas (2024): Estimating means of bounded random variables by betting. Journal of the
Royal Statistical Society B 86, 1-27; the mixture of bets is that of H. Robbins (1970): Statistical methods
related to the law of the iterated logarithm. Annals of Mathematical Statistics 41, 1397-1409.
"""

import math
from functools import lru_cache

from scipy.special import betaln
from scipy.stats import beta

_STEPS = 60


def log_capital(wrong: int, n: int, rate: float) -> float:
    """Return the logarithm of the wealth, from 1, of a bettor who bets that the error rate exceeds `rate`.

    Args:
        wrong: predictions that were wrong.
        n: all predictions.
        rate: the error rate at which the odds are fair, above 0 and below 1.
    """
    # The capital is the mean likelihood ratio of all error rates above `rate`, each as likely as the others.
    above = float(beta.logsf(rate, wrong + 1, n - wrong + 1))
    mixture = float(betaln(wrong + 1, n - wrong + 1)) + above - math.log1p(-rate)
    return mixture - wrong * math.log(rate) - (n - wrong) * math.log1p(-rate)


def p_value(wrong: int, n: int, rate: float) -> float:
    """Return the anytime-valid p-value of the hypothesis that the error rate is at most `rate`."""
    return math.exp(min(0.0, -log_capital(wrong, n, rate)))


def is_higher(wrong: int, n: int, other_wrong: int, other_n: int, alpha: float) -> bool:
    """Return whether one error rate is proven to be higher than another, however often one looks.

    Two confidence sequences that share alpha: the lower bound of the one must lie above the upper bound of
    the other. Where the one is not higher, this ever happens with a probability of at most alpha.

    Args:
        wrong: predictions of the one that were wrong.
        n: all predictions of the one.
        other_wrong: predictions of the other that were wrong.
        other_n: all predictions of the other.
        alpha: probability of a false proof.
    """
    bound = upper_bound(other_wrong, other_n, alpha / 2)
    return bound < 1 and p_value(wrong, n, bound) <= alpha / 2


@lru_cache(maxsize=1024)  # what is compared with hardly changes from look to look
def upper_bound(wrong: int, n: int, alpha: float) -> float:
    """Return an error rate that exceeds the true one at all times at once with a probability of 1 - alpha."""
    return 1 - lower_bound(n - wrong, n, alpha)


def lower_bound(wrong: int, n: int, alpha: float) -> float:
    """Return an error rate that the true one exceeds at all times at once with a probability of 1 - alpha."""
    low, high = 0.0, wrong / n if n else 0.0
    if high == 0:
        return 0.0
    high = min(high, 1 - 1e-12)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if middle > 0 and log_capital(wrong, n, middle) < math.log(1 / alpha):
            high = middle
        else:
            low = middle
    return low
