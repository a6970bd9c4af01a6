"""The figures: against scikit-learn, against cases worked out by hand, and what always holds."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from captcha_assets.evaluation.metrics import (
    CALIBRATION_BINS,
    MetricsError,
    compute_metrics,
    exact_mcnemar,
    holm,
)
from captcha_assets_tests.evaluation.examples import CLASSES, made_up, softmax


@st.composite
def predictions(draw):
    n = draw(st.integers(1, 60))
    count = draw(st.integers(2, 6))
    logits = draw(hnp.arrays(np.float32, (n, count), elements=st.floats(-30, 30, width=32)))
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, count - 1)))
    return softmax(logits), labels, tuple("abcdef"[:count])


def test_the_figures_are_those_of_scikit_learn():
    probabilities, labels = made_up()
    found = compute_metrics(probabilities, labels, CLASSES)
    predicted = probabilities.argmax(axis=1)
    exact = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    precision, recall, f1, support = oracle.precision_recall_fscore_support(labels, predicted)
    assert found.accuracy == pytest.approx(oracle.accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(oracle.f1_score(labels, predicted, average="macro"))
    assert found.nll == pytest.approx(oracle.log_loss(labels, exact), rel=1e-5)
    assert found.brier == pytest.approx(oracle.brier_score_loss(labels, exact, scale_by_half=False), rel=1e-5)
    assert np.array_equal(found.confusion, oracle.confusion_matrix(labels, predicted))
    assert [entry.precision for entry in found.per_class] == pytest.approx(precision)
    assert [entry.recall for entry in found.per_class] == pytest.approx(recall)
    assert [entry.f1 for entry in found.per_class] == pytest.approx(f1)
    assert [entry.support for entry in found.per_class] == support.tolist()


def test_the_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy():
    # Three answers at 0.9 of which two are right, and one at 0.6 that is wrong.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]], np.float32)
    found = compute_metrics(probabilities, np.array([0, 0, 1, 1]), ("a", "b"))
    assert found.ece == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.6)
    assert len(found.calibration) == CALIBRATION_BINS
    assert sum(entry.n for entry in found.calibration) == 4
    filled = [entry for entry in found.calibration if entry.n]
    assert [(entry.n, round(entry.accuracy, 3)) for entry in filled] == [(1, 0.0), (3, 0.667)]


def test_one_who_says_what_is_true_is_well_calibrated():
    rng = np.random.default_rng(5)
    probabilities = softmax(rng.normal(scale=2, size=(20_000, 4)))
    labels = (rng.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert compute_metrics(probabilities, labels, CLASSES).ece < 0.015


def test_one_who_is_always_sure_and_half_the_time_wrong_is_badly_calibrated():
    probabilities = np.tile(np.array([[1, 0]], np.float32), (10, 1))
    found = compute_metrics(probabilities, np.array([0, 1] * 5), ("a", "b"))
    assert found.ece == pytest.approx(0.5)
    assert found.brier == pytest.approx(1.0)
    assert np.isfinite(found.nll)


def test_a_class_without_test_images_is_named_and_given_no_figures():
    probabilities, labels = made_up()
    labels = np.where(labels == 2, 1, labels)
    found = compute_metrics(probabilities, labels, CLASSES)
    absent = found.per_class[2]
    assert found.missing == ("c",)
    assert (absent.support, absent.recall, absent.recall_low, absent.f1) == (0, None, None, None)
    assert absent.predicted > 0
    assert absent.precision == 0.0
    predicted = probabilities.argmax(axis=1)
    assert found.macro_f1 == pytest.approx(
        oracle.f1_score(labels, predicted, labels=[0, 1, 3], average="macro")
    )


def test_a_class_that_is_never_predicted_has_no_precision_and_an_f1_of_zero():
    probabilities = np.array([[0.8, 0.2], [0.7, 0.3]], np.float32)
    found = compute_metrics(probabilities, np.array([0, 1]), ("a", "b"))
    assert found.per_class[1].precision is None
    assert (found.per_class[1].recall, found.per_class[1].f1) == (0.0, 0.0)


def test_the_figures_survive_json():
    probabilities, labels = made_up()
    found = compute_metrics(probabilities, np.where(labels == 2, 1, labels), CLASSES)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["accuracy"] == pytest.approx(found.accuracy, abs=1e-6)
    assert plain["confusion"] == found.confusion.tolist()
    assert plain["per_class"][2]["recall"] is None
    assert plain["calibration"][0] == {
        "low": 0.0, "high": round(1 / 15, 6), "n": 0, "confidence": None, "accuracy": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("probabilities", "labels", "complaint"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "at least one"),
        (np.full((2, 3), 1 / 3), np.array([0, 1]), "shape"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "labels"),
        (np.array([[0.5, 0.5], [3.0, -1.0]]), np.array([0, 1]), "row 1"),
        (np.array([[0.5, 0.5], [1.5, -0.5]]), np.array([0, 1]), "row 1"),
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 1]), "row 0"),
    ],
)
def test_what_cannot_be_measured_is_rejected_with_the_reason(probabilities, labels, complaint):
    with pytest.raises(MetricsError, match=complaint):
        compute_metrics(probabilities, labels, ("a", "b"))


def test_two_models_that_never_differ_are_equal_in_the_paired_test():
    assert exact_mcnemar(np.array([0]), np.array([0])) == [1.0]


def test_the_paired_test_asks_how_often_chance_alone_gives_so_few_gains():
    # The probability of at most 2 heads in 12 throws: (1 + 12 + 66) / 4096.
    found = exact_mcnemar(np.array([2, 10]), np.array([10, 2]))
    assert found[0] == pytest.approx(79 / 4096)
    assert found[1] > 0.9


def test_holms_correction_rejects_step_by_step():
    # Sorted: 0.01 <= 0.05/4, 0.013 <= 0.05/3, 0.03 > 0.05/2, so that 0.04 is kept too.
    assert holm(np.array([0.04, 0.01, 0.03, 0.013]), 0.05).tolist() == [False, True, False, True]
    assert holm(np.array([0.001, 0.002]), 0.05).tolist() == [True, True]
    assert holm(np.array([0.03, 0.03]), 0.05).tolist() == [False, False]


@given(predictions())
def test_what_always_holds(drawn):
    probabilities, labels, classes = drawn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_metrics(probabilities, labels, classes)
    assert 0 <= found.accuracy_low <= found.accuracy <= found.accuracy_high <= 1
    assert found.confusion.sum() == found.n == len(labels)
    assert np.trace(found.confusion) == round(found.accuracy * found.n)
    assert 0 <= found.ece <= 1
    assert 0 <= found.macro_f1 <= 1
    assert 0 <= found.brier <= 2
    assert found.nll >= 0
    assert sum(entry.support for entry in found.per_class) == found.n
    assert sum(entry.predicted for entry in found.per_class) == found.n
    for entry in found.per_class:
        if entry.support:
            assert 0 <= entry.recall_low <= entry.recall <= entry.recall_high <= 1


@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(drawn, random):
    probabilities, labels, classes = drawn
    order = list(range(len(labels)))
    random.shuffle(order)
    one = compute_metrics(probabilities, labels, classes).to_dict()
    other = compute_metrics(probabilities[order], labels[order], classes).to_dict()
    for name in ("accuracy", "macro_f1", "ece", "nll", "brier"):
        assert one[name] == pytest.approx(other[name], abs=2e-6)
    assert one["confusion"] == other["confusion"]
