from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_effectsize

from captcha_assets.monitoring import two_sample

VALUES = arrays(np.float64, st.integers(1, 60), elements=st.floats(-5, 5).map(lambda value: round(value, 1)))
P_VALUES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


@given(VALUES, VALUES)
def test_the_distance_of_two_samples_is_scipys(before: np.ndarray, now: np.ndarray) -> None:
    expected = stats.ks_2samp(before, now).statistic
    assert two_sample.ks_distance(before, now) == pytest.approx(expected, abs=1e-12)


@given(VALUES, VALUES)
def test_the_p_value_of_independent_samples_is_scipys(before: np.ndarray, now: np.ndarray) -> None:
    n, m = len(before), len(now)
    assume(round(n * m / (n + m)) >= 1)
    expected = stats.ks_2samp(before, now, method="asymp")
    found = two_sample.ks_p_value(expected.statistic, n * m / (n + m))
    assert found == pytest.approx(expected.pvalue, abs=1e-9)


@given(P_VALUES)
def test_equal_weights_give_holms_method(p_values: np.ndarray) -> None:
    with patch("gc.collect"):  # each of its calls has all garbage collected
        expected = multipletests(p_values, method="holm")[1]
    found = two_sample.holm(p_values, np.full(len(p_values), 0.3))
    assert found == pytest.approx(expected, abs=1e-12)


@given(P_VALUES, st.data())
def test_a_weighted_correction_never_helps_a_p_value(p_values: np.ndarray, data: st.DataObject) -> None:
    weights = data.draw(arrays(np.float64, len(p_values), elements=st.floats(0.01, 1)))
    found = two_sample.holm(p_values, weights)
    assert (found >= p_values - 1e-12).all()
    assert (found <= 1).all()
    # The smallest relative to its weight is corrected as by Bonferroni.
    first = int(np.argmin(p_values / weights))
    bonferroni = min(1, p_values[first] * weights.sum() / weights[first])
    assert found[first] == pytest.approx(bonferroni, rel=1e-9, abs=1e-300)


def test_no_tests_need_no_correction() -> None:
    assert two_sample.holm(np.zeros(0), np.zeros(0)).shape == (0,)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_effect_of_two_shares_is_statsmodels(share: float, reference: float) -> None:
    found = two_sample.cohens_h(share, reference)
    assert found == pytest.approx(proportion_effectsize(share, reference), abs=1e-9)


@pytest.mark.slow
@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=3), st.lists(st.integers(0, 40), min_size=3, max_size=3)
)
def test_permuted_counts_agree_with_scipys_permutations(before: list[int], now: list[int]) -> None:
    assume(sum(before) and sum(now))
    table = np.array([before, now])
    table = table[:, table.sum(axis=0) > 0]
    assume(table.shape[1] > 1)
    method = stats.PermutationMethod(n_resamples=1999, rng=np.random.default_rng(1))
    expected = stats.chi2_contingency(table, correction=False, method=method).pvalue
    found = two_sample.counts_p_value(
        np.array(before, float), np.array(now, float), 1999, np.random.default_rng(0)
    )
    assert found == pytest.approx(expected, abs=0.07)


@given(VALUES)
def test_the_stability_index_of_a_sample_with_itself_is_zero(values: np.ndarray) -> None:
    assert two_sample.psi(values, values) == pytest.approx(0, abs=1e-12)


@given(VALUES, VALUES)
def test_the_stability_index_is_never_negative(before: np.ndarray, now: np.ndarray) -> None:
    assert two_sample.psi(before, now) >= 0


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize("sizes", [(2000, 50), (2000, 500)])
def test_equal_counts_are_rejected_as_often_as_chance_allows(sizes: tuple[int, int]) -> None:
    rng, shares = np.random.default_rng(3), np.array([2] + [1] * 19) / 21
    p_values = [
        two_sample.counts_p_value(*(rng.multinomial(size, shares).astype(float) for size in sizes), 199, rng)
        for _ in range(2000)
    ]
    for level in (0.01, 0.05, 0.2):
        allowed = stats.binom(2000, level).ppf(0.9999)
        assert np.count_nonzero(np.array(p_values) <= level) <= allowed
        assert np.count_nonzero(np.array(p_values) <= level) >= stats.binom(2000, level).ppf(0.0001)


@pytest.mark.slow
@pytest.mark.no_cover
def test_a_weighted_correction_keeps_its_level_however_tests_depend_on_each_other() -> None:
    rng, weights = np.random.default_rng(4), np.array([1.0] + [0.05] * 20)
    rejected = 0
    for _ in range(4000):
        scores = 0.7 * rng.standard_normal() + 0.7 * rng.standard_normal(len(weights))
        p_values = 2 * stats.norm.sf(np.abs(scores) / np.hypot(0.7, 0.7))
        rejected += bool((two_sample.holm(p_values, weights) <= 0.05).any())
    assert rejected <= stats.binom(4000, 0.05).ppf(0.9999)
