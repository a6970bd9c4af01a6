import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import xlog1py, xlogy

from captcha_assets.monitoring import error_rate

RATES = st.floats(0.005, 0.9)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 300))
    return draw(st.integers(0, n)), n


@given(counts(), RATES)
def test_the_capital_is_the_mean_of_the_likelihood_ratios(count: tuple[int, int], rate: float) -> None:
    wrong, n = count

    def log_ratio(other: float) -> float:
        likelihood = xlogy(wrong, other) + xlog1py(n - wrong, -other)
        return float(likelihood - xlogy(wrong, rate) - xlog1py(n - wrong, -rate))

    peak = min(max(wrong / n, rate), 1 - 1e-9)
    spread = math.sqrt(peak * (1 - peak) / n) + 1 / n
    points = [p for p in (peak - spread, peak, peak + spread) if rate < p < 1]
    most = log_ratio(peak)  # the ratios themselves may be too large for a float
    area = quad(lambda other: math.exp(log_ratio(other) - most), rate, 1, points=points or None, limit=500)[0]
    expected = most + math.log(area / (1 - rate))
    found = error_rate.log_capital(wrong, n, rate)
    assert math.exp(min(found, 0)) == pytest.approx(math.exp(min(expected, 0)), rel=1e-4, abs=1e-9)
    assert max(found, 0) == pytest.approx(max(expected, 0), abs=1e-4)


@given(counts(), RATES)
def test_a_correction_that_comes_late_only_adds_evidence(count: tuple[int, int], rate: float) -> None:
    wrong, n = count
    if wrong < n:
        before, after = (error_rate.log_capital(number, n, rate) for number in (wrong, wrong + 1))
        assert after >= before


@given(counts(), st.floats(0.001, 0.2))
def test_the_bound_is_where_the_p_value_is_alpha(count: tuple[int, int], alpha: float) -> None:
    wrong, n = count
    bound = error_rate.lower_bound(wrong, n, alpha)
    assert 0 <= bound <= wrong / n
    if 1e-6 < bound < wrong / n - 1e-6:
        assert error_rate.p_value(wrong, n, bound) == pytest.approx(alpha, rel=1e-3)


def test_nothing_is_proven_by_nothing() -> None:
    assert error_rate.lower_bound(0, 0, 0.01) == 0
    assert error_rate.lower_bound(0, 5000, 0.01) == 0
    assert error_rate.p_value(0, 5000, 0.02) == 1


def test_many_predictions_do_not_overflow() -> None:
    assert error_rate.p_value(200_000, 1_000_000, 0.03) == 0
    assert error_rate.p_value(1000, 10_000_000, 0.5) == 1
    assert error_rate.lower_bound(200_000, 1_000_000, 0.01) == pytest.approx(0.2, abs=0.005)


@pytest.mark.slow
@pytest.mark.no_cover
def test_looking_at_every_day_raises_no_more_false_alarms_than_stated() -> None:
    rng, models, days, rate, alpha = np.random.default_rng(8), 1000, 150, 0.03, 0.05
    alarmed = 0
    for _ in range(models):
        wrong = np.cumsum(rng.binomial(50, rate, days))
        alarmed += any(
            error_rate.p_value(int(number), 50 * day, rate) <= alpha for day, number in enumerate(wrong, 1)
        )
    assert 0 < alarmed <= stats.binom(models, alpha).ppf(0.9999)


@given(counts(), counts(), st.floats(0.001, 0.2))
def test_a_rate_is_higher_where_its_lower_bound_lies_above_the_upper_bound_of_the_other(
    one: tuple[int, int], other: tuple[int, int], alpha: float
) -> None:
    low = error_rate.lower_bound(*one, alpha / 2)
    high = error_rate.upper_bound(*other, alpha / 2)
    assert other[0] / other[1] <= high <= 1
    if abs(low - high) > 1e-6:
        assert error_rate.is_higher(*one, *other, alpha) == (low > high)


def test_nothing_is_higher_than_what_nobody_counted() -> None:
    assert not error_rate.is_higher(500, 500, 0, 0, 0.01)
    assert not error_rate.is_higher(0, 0, 0, 500, 0.01)
    assert error_rate.is_higher(500, 500, 0, 500, 0.01)


def looks(rng: np.random.Generator, rate: float, other_rate: float, alpha: float) -> tuple[bool, bool]:
    """Compare two models every day for 60 days; say whether the one is ever called worse, by both rules.

    The second rule is a test that may be asked once: two proportions at the end of each day.
    """
    n, wrong = 20 * np.arange(1, 61), np.cumsum(rng.binomial(20, rate, 60))
    other_n, other_wrong = 500, int(rng.binomial(500, other_rate))
    proven = any(
        error_rate.is_higher(int(one), int(all_of_them), other_wrong, other_n, alpha)
        for one, all_of_them in zip(wrong, n, strict=True)
    )
    pooled = (wrong + other_wrong) / (n + other_n)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / other_n))
    z = (wrong / n - other_wrong / other_n) / np.maximum(deviation, 1e-9)
    return proven, bool((z > stats.norm.isf(alpha)).any())


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_of_two_equal_models_none_is_called_worse_more_often_than_stated_however_often_one_looks(
    rate: float,
) -> None:
    rng, replays, alpha = np.random.default_rng(20), 400, 0.05
    found = np.array([looks(rng, rate, rate, alpha) for _ in range(replays)])
    proven, asked_once = found.sum(axis=0)
    most = stats.binom(replays, alpha).ppf(0.9999)
    assert proven <= most
    assert asked_once > most, "a test that may be asked once does not hold what it states"


@pytest.mark.slow
def test_a_model_that_is_much_worse_is_found() -> None:
    rng = np.random.default_rng(21)
    found = [looks(rng, 0.2, 0.05, 0.01)[0] for _ in range(100)]
    assert sum(found) >= 99
