"""What speaks against a candidate, and what does not."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.evaluation.compare import ComparisonError, PromotionLimits, compare


def predictions(right, labels=None, probability=None):
    """Answers to as many images as `right` is long, right where it says so."""
    right = np.asarray(right, bool)
    labels = np.asarray(labels if labels is not None else ["a"] * len(right))
    if probability is None:
        probability = right.mean() if len(right) else 0.0
    return pl.DataFrame(
        {
            "image_id": [f"{index:032x}" for index in range(len(right))],
            "label": labels,
            "predicted": np.where(right, labels, "?"),
            "probability": np.broadcast_to(np.float64(probability), right.shape).copy(),
        },
        schema_overrides={"label": pl.String, "predicted": pl.String},
    )


def answers(*runs):
    """`answers((990, True), (10, False))`: so many right, then so many wrong."""
    return np.concatenate([np.full(count, right) for count, right in runs])


def clause(comparison, name):
    (found,) = (entry for entry in comparison.clauses if entry.name == name)
    return found


def test_a_model_compared_with_itself_is_worse_in_nothing_and_no_better():
    same = predictions(answers((95, True), (5, False)), labels=["a", "b"] * 50)
    comparison = compare(same, same)
    assert comparison.passed
    assert not comparison.better
    assert [entry.name for entry in comparison.clauses] == ["accuracy", "class_recall", "calibration"]
    assert comparison.n == 100


def test_a_better_candidate_passes_and_is_called_better():
    comparison = compare(
        predictions(answers((90, True), (10, False))), predictions(answers((98, True), (2, False)))
    )
    assert comparison.passed
    assert comparison.better
    assert "98.00 % against 90.00 %" in comparison.words


def test_a_loss_that_chance_explains_is_no_reason_to_refuse():
    """5 images lost and 3 gained: were both equally good, that happens in 36 of 100 cases."""
    champion = predictions(answers((5, True), (3, False), (992, True)))
    candidate = predictions(answers((5, False), (3, True), (992, True)))
    found = clause(compare(champion, candidate), "accuracy")
    assert found.passed
    assert found.figures["p"] == pytest.approx(93 / 256)
    assert (found.figures["only the candidate is right"], found.figures["only the champion is right"]) == (
        3,
        5,
    )


def test_a_loss_beyond_chance_is_refused_with_its_figures():
    """10 images lost and none gained: 1 in 1,024."""
    champion = predictions(answers((1000, True)))
    candidate = predictions(answers((10, False), (990, True)))
    comparison = compare(champion, candidate)
    found = clause(comparison, "accuracy")
    assert not comparison.passed
    assert not found.passed
    assert found.figures["p"] == pytest.approx(1 / 1024)
    assert "99.00 % is lower beyond chance than the champion's 100.00 %" in found.words
    assert found.words in comparison.words


def test_the_level_decides_what_is_beyond_chance():
    champion, candidate = (
        predictions(answers((1000, True))),
        predictions(answers((5, False), (995, True))),
    )
    assert not clause(compare(champion, candidate, PromotionLimits(accuracy_level=0.05)), "accuracy").passed
    assert clause(compare(champion, candidate, PromotionLimits(accuracy_level=0.01)), "accuracy").passed


def test_a_higher_accuracy_is_never_refused_for_its_accuracy():
    champion, candidate = (
        predictions(answers((10, False), (90, True))),
        predictions(answers((9, False), (91, True))),
    )
    assert clause(compare(champion, candidate, PromotionLimits(accuracy_level=1)), "accuracy").passed


def test_a_class_that_falls_too_far_is_refused_though_all_others_rise():
    labels = ["m"] * 100 + ["n"] * 900
    champion = predictions(answers((98, True), (2, False), (850, True), (50, False)), labels)
    candidate = predictions(answers((92, True), (8, False), (900, True)), labels)
    comparison = compare(champion, candidate)
    found = clause(comparison, "class_recall")
    assert comparison.better
    assert not comparison.passed
    assert not found.passed
    assert found.figures["fallen"] == ["m"]
    assert "m from 98.0 % to 92.0 % on 100 images" in found.words
    assert clause(compare(champion, candidate, PromotionLimits(recall_fall=0.06)), "class_recall").passed


def test_one_lost_image_of_a_rare_class_is_no_fall():
    labels = ["m"] * 4 + ["n"] * 900
    champion = predictions(answers((904, True)), labels)
    assert clause(
        compare(champion, predictions(answers((1, False), (903, True)), labels)), "class_recall"
    ).passed
    two = compare(champion, predictions(answers((2, False), (902, True)), labels))
    assert not clause(two, "class_recall").passed


def test_every_class_that_falls_is_named_the_worst_first():
    labels = ["m"] * 100 + ["n"] * 100 + ["p"] * 100
    champion = predictions(answers((300, True)), labels)
    candidate = predictions(answers((90, True), (10, False), (80, True), (20, False), (100, True)), labels)
    found = clause(compare(champion, candidate), "class_recall")
    assert found.figures["fallen"] == ["n", "m"]
    assert "n from 100.0 % to 80.0 %" in found.words
    assert "and also m" in found.words


def test_a_candidate_that_is_far_too_sure_of_itself_is_refused():
    right = answers((90, True), (10, False))
    champion, candidate = predictions(right, probability=0.9), predictions(right, probability=0.999)
    found = clause(compare(champion, candidate), "calibration")
    assert not found.passed
    assert found.figures["candidate"] == pytest.approx(0.099)
    assert "0.099 is not within the limit" in found.words


def test_a_poor_calibration_that_is_no_poorer_than_the_champions_is_allowed():
    right = answers((90, True), (10, False))
    champion, candidate = predictions(right, probability=0.99), predictions(right, probability=0.98)
    assert clause(compare(champion, candidate), "calibration").passed


def test_the_order_of_the_predictions_is_of_no_matter():
    champion = predictions(answers((90, True), (10, False)), labels=["a", "b"] * 50)
    candidate = predictions(answers((5, False), (95, True)), labels=["a", "b"] * 50)
    assert compare(champion, candidate.reverse()) == compare(
        champion.sample(fraction=1, shuffle=True), candidate
    )


@pytest.mark.parametrize(
    "other",
    [
        predictions(answers((9, True))),
        predictions(answers((11, True))),
        predictions(answers((10, True)), labels=["b"] * 10),
        pl.concat([predictions(answers((9, True))), predictions(answers((1, True)))]),
    ],
    ids=["fewer", "more", "another label", "one twice"],
)
def test_predictions_of_other_images_are_not_compared(other):
    with pytest.raises(ComparisonError, match="evaluate both on the same splits"):
        compare(predictions(answers((10, True))), other)


def test_without_images_there_is_no_verdict():
    with pytest.raises(ComparisonError, match="no predictions"):
        compare(predictions([]), predictions([]))


@pytest.mark.parametrize("name", ["accuracy_level", "recall_fall", "calibration_error"])
@pytest.mark.parametrize("value", [-0.1, 5, float("nan")])
def test_a_limit_that_is_no_share_is_refused(name, value):
    with pytest.raises(ComparisonError, match=name):
        PromotionLimits(**{name: value})


def test_the_verdict_survives_json():
    comparison = compare(predictions(answers((100, True))), predictions(answers((50, True), (50, False))))
    plain = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert plain["passed"] is False
    assert plain["better"] is False
    assert [entry["name"] for entry in plain["clauses"]] == ["accuracy", "class_recall", "calibration"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_no_candidate_is_refused_for_answers_that_are_right_wherever_the_champions_are(drawn):
    labels, one, other = (np.array(column) for column in zip(*drawn, strict=True))
    comparison = compare(predictions(one, labels, 0.5), predictions(one | other, labels, 0.5))
    assert clause(comparison, "accuracy").passed
    assert clause(comparison, "class_recall").passed
    assert comparison.better == bool((other & ~one).any())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_narrower_limits_never_let_more_through(drawn):
    labels, one, other = (np.array(column) for column in zip(*drawn, strict=True))
    both = predictions(one, labels, 0.5), predictions(other, labels, 0.7)
    wide, narrow = PromotionLimits(0.01, 0.2, 0.2), PromotionLimits(0.2, 0.01, 0.01)
    for loose, strict in zip(compare(*both, wide).clauses, compare(*both, narrow).clauses, strict=True):
        assert loose.passed >= strict.passed
