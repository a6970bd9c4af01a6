import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.monitoring import label_shift


@given(st.integers(2, 20), st.integers(0, 10_000))
def test_the_shares_that_lead_to_predictions_are_found(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confusion = 0.7 * np.eye(classes) + 0.3 * rng.dirichlet(np.ones(classes), classes).T
    true = rng.dirichlet(np.ones(classes))
    found = label_shift.implied_shares(confusion, confusion @ true)
    assert found == pytest.approx(true, abs=1e-6)


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_implied_shares_are_shares_whatever_was_predicted(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    confusion = rng.dirichlet(np.ones(classes), classes).T
    found = label_shift.implied_shares(confusion, rng.dirichlet(np.full(classes, 0.1)))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)


def test_a_confusion_matrix_holds_the_shares_of_each_class() -> None:
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    found = label_shift.confusion_matrix(labels, predicted, 3)
    assert found == pytest.approx(np.array([[2 / 3, 0, 0], [1 / 3, 1, 0], [0, 0, 1]]))


def test_total_variation_is_the_share_that_changes() -> None:
    assert label_shift.total_variation(np.array([0.5, 0.5, 0]), np.array([0.2, 0.5, 0.3])) == pytest.approx(
        0.3
    )
