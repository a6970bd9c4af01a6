"""Intervals keep their promise: against published figures, an independent fit, and by counting."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, multinomial

from captcha_assets.confidence_intervals import best_of, images_needed, paired_difference, wilson


def test_the_interval_of_a_share_is_wilsons():
    # Worked out from (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964.
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_that_of_scipy(drawn):
    right, n = drawn
    for confidence in (0.9, 0.95, 0.999):
        found = binomtest(right, n).proportion_ci(confidence, method="wilson")
        assert wilson(right, n, confidence) == pytest.approx((found.low, found.high), abs=1e-9)


def test_the_interval_of_the_best_of_many_is_wider_than_that_of_one():
    assert best_of(1, 95, 100) == wilson(95, 100)
    assert best_of(20, 95, 100) == wilson(95, 100, 0.9975)
    assert best_of(20, 95, 100).low < wilson(95, 100).low


def test_the_interval_of_a_difference_is_that_of_the_literature():
    """Airway hyper-responsiveness before and after transplantation (Bentur 2009), n = 21."""
    assert paired_difference(1, 7, 21) == pytest.approx((-0.5172, -0.0260), abs=5e-5)


def test_where_two_models_never_differ_the_interval_is_not_empty():
    z2 = 1.959964**2
    assert paired_difference(0, 0, 300) == pytest.approx((-z2 / (300 + z2), z2 / (300 + z2)), abs=1e-6)


def test_it_takes_so_many_images_to_exclude_a_loss():
    needed = images_needed(0.005)
    assert needed == 765
    assert paired_difference(0, 0, needed).low > -0.005 >= paired_difference(0, 0, needed - 1).low


def score(gained, lost, n, difference):
    """Tango's statistic with the nuisance parameter fitted numerically, not by his formula."""

    def negative_likelihood(loss):
        cells = ((gained, loss + difference), (lost, loss), (n - gained - lost, 1 - 2 * loss - difference))
        return -sum(count * math.log(share) for count, share in cells if count)

    bounds = (max(0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    loss = minimize_scalar(negative_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return (gained - lost - n * difference) / math.sqrt(n * (2 * loss + difference - difference**2))


@pytest.mark.parametrize("counts", [(1, 7, 21), (16, 9, 86), (40, 20, 160), (3, 0, 50), (20, 25, 3000)])
def test_at_the_ends_of_the_interval_the_score_test_is_at_its_level(counts):
    low, high = paired_difference(*counts)
    assert score(*counts, low) == pytest.approx(1.959964, abs=1e-4)
    assert score(*counts, high) == pytest.approx(-1.959964, abs=1e-4)


@given(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2000)).filter(any))
def test_the_interval_holds_the_observed_difference_and_mirrors(drawn):
    gained, lost, rest = drawn
    n = gained + lost + rest
    low, high = paired_difference(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n + 1e-9
    assert (gained - lost) / n - 1e-9 <= high <= 1
    assert paired_difference(lost, gained, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("gain", "loss"), [(0.02, 0.02), (0.01, 0.06), (0.1, 0.1), (0.2, 0.05)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(gain, loss):
    """Counted over every outcome on 60 images, not drawn."""
    n, covered = 60, 0.0
    for gained in range(n + 1):
        losses = np.arange(n - gained + 1)
        cells = np.stack([np.full(len(losses), gained), losses, n - gained - losses], axis=1)
        share = multinomial(n, [gain, loss, 1 - gain - loss]).pmf(cells)
        for lost in losses[share > 1e-9]:
            low, high = paired_difference(gained, int(lost), n)
            covered += float(share[lost]) * (low <= gain - loss <= high)
    assert 0.94 <= covered <= 0.99
