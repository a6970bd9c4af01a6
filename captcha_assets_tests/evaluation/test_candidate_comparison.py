"""What speaks against a candidate, and what does not."""

import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.evaluation.candidate_comparison import (
    ComparisonError,
    PromotionLimits,
    accuracy_criteria,
    compare,
    count_pairs,
)
from captcha_assets.evaluation.criterion_descriptions import Criterion


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


def criterion(comparison, name):
    (found,) = (entry for entry in comparison.criteria if entry.name == name)
    return found


def failed(comparison):
    return [entry.name for entry in comparison.criteria if not entry.passed]


def test_a_model_compared_with_itself_is_no_worse_and_gives_no_reason_to_change():
    same = predictions(answers((950, True), (50, False)), labels=["a", "b"] * 500)
    comparison = compare(same, same)
    assert [entry.name for entry in comparison.criteria] == [
        "non_inferiority",
        "reason_to_change",
        "class_recall",
        "calibration",
    ]
    assert failed(comparison) == ["reason_to_change"]
    assert comparison.n == 1000


def test_newer_data_is_a_reason_to_change_to_a_model_that_is_no_worse():
    same = predictions(answers((950, True), (50, False)))
    comparison = compare(same, same, newer_data="trained on 7 images that the champion was not trained on")
    assert comparison.passed
    assert not comparison.superior
    assert criterion(comparison, "reason_to_change").words.startswith("newer data: trained on 7 images")


def test_a_better_candidate_needs_no_newer_data():
    comparison = compare(
        predictions(answers((90, True), (10, False))), predictions(answers((98, True), (2, False)))
    )
    assert comparison.passed
    assert comparison.superior
    assert "accuracy 98.00 %, champion 90.00 %" in criterion(comparison, "non_inferiority").words


def test_one_more_right_answer_is_no_reason_to_change():
    champion, candidate = (predictions(answers((right, True), (295 - right, False))) for right in (280, 281))
    assert "reason_to_change" in failed(compare(champion, candidate))


def test_a_loss_within_the_margin_is_shown_by_many_images_only():
    """Two models of which each is right alone on one image in a hundred."""
    for n, passed in ((300, False), (3000, False), (30_000, True)):
        champion = predictions(answers((n // 100, True), (n // 100, False), (n - 2 * (n // 100), True)))
        candidate = predictions(answers((n // 100, False), (n // 100, True), (n - 2 * (n // 100), True)))
        found = criterion(compare(champion, candidate), "non_inferiority")
        assert found.passed == passed, n
        assert f"a loss of 0.50 points is {'' if passed else 'not '}excluded" in found.words
        assert ("that takes 765 test images" in found.words) == (n == 300)


def test_of_a_model_that_is_worse_by_more_than_the_margin_nobody_is_told_that_more_images_would_do():
    champion, candidate = (predictions(answers((right, True), (300 - right, False))) for right in (290, 288))
    found = criterion(compare(champion, candidate), "non_inferiority")
    assert not found.passed
    assert found.words.endswith("a loss of 0.50 points is not excluded")


def test_the_margin_and_the_level_decide_what_is_worse():
    champion = predictions(answers((1000, True)))
    candidate = predictions(answers((2, False), (998, True)))
    assert "non_inferiority" in failed(compare(champion, candidate))
    assert "non_inferiority" not in failed(compare(champion, candidate, PromotionLimits(margin=0.01)))
    assert "non_inferiority" not in failed(compare(champion, candidate, PromotionLimits(level=0.4)))


def test_small_losses_that_add_up_are_no_promotion_against_the_model_that_they_add_up_to():
    """Each model has 80 mistakes of 30,000 more than the one before it, spread over 20 classes."""
    labels = [f"{index % 20:02}" for index in range(30_000)]
    mistakes = {"reference": (0, 320), "champion": (320, 720), "candidate": (720, 1200)}
    reference, champion, candidate = (
        predictions([not begin <= index < end for index in range(30_000)], labels)
        for begin, end in mistakes.values()
    )
    newer = "trained on newer images"
    assert compare(reference, champion, newer_data=newer).passed
    assert compare(champion, candidate, newer_data=newer).passed
    comparison = compare(champion, candidate, newer_data=newer, reference_predictions=reference)
    assert failed(comparison) == ["non_inferiority"]
    assert "not excluded against the last model" in criterion(comparison, "non_inferiority").words


def test_a_class_that_falls_beyond_chance_prevents_promotion_though_all_others_rise():
    labels = ["m"] * 100 + ["n"] * 900
    champion = predictions(answers((98, True), (2, False), (850, True), (50, False)), labels)
    candidate = predictions(answers((85, True), (15, False), (900, True)), labels)
    comparison = compare(champion, candidate)
    found = criterion(comparison, "class_recall")
    assert comparison.superior
    assert failed(comparison) == ["class_recall"]
    assert found.figures["fallen"] == ["m"]
    assert found.figures["classes"][0]["p"] == pytest.approx(2**-13)
    assert "m from 98.0 % to 85.0 % on 100 images" in found.words
    strict = compare(champion, candidate, PromotionLimits(level=2**-13))
    assert criterion(strict, "class_recall").passed, "two classes: half the level for the first"


def test_every_class_that_falls_is_named_the_surest_first():
    labels = ["m"] * 100 + ["n"] * 100 + ["p"] * 100
    champion = predictions(answers((300, True)), labels)
    candidate = predictions(answers((90, True), (10, False), (80, True), (20, False), (100, True)), labels)
    found = criterion(compare(champion, candidate), "class_recall")
    assert found.figures["fallen"] == ["n", "m"]
    assert "n from 100.0 % to 80.0 %" in found.words
    assert "and also m" in found.words


def test_equal_models_on_15_images_a_class_are_vetoed_by_a_class_at_most_at_the_level():
    rng, rounds = np.random.default_rng(3), 1000
    labels = np.repeat(np.arange(20), 15)
    vetoed = 0
    for _ in range(rounds):
        # The two differ on every fifth image, far more often than trained models do.
        champion = rng.random(300) < 0.85
        candidate = np.where(rng.random(300) < 0.2, rng.random(300) < 0.85, champion)
        counts = count_pairs([str(name) for name in range(20)], labels, champion, candidate)
        vetoed += not accuracy_criteria(counts, PromotionLimits(), newer_data=None)[2].passed
    assert vetoed <= 0.05 * rounds


def test_a_candidate_that_is_far_too_sure_of_itself_is_not_promoted():
    right = answers((90, True), (10, False))
    champion, candidate = predictions(right, probability=0.9), predictions(right, probability=0.999)
    found = criterion(compare(champion, candidate), "calibration")
    assert not found.passed
    assert found.figures["candidate"] == pytest.approx(0.099)
    assert "0.099 is not within the limit" in found.words


def test_a_poor_calibration_that_is_no_poorer_than_the_champions_is_allowed():
    right = answers((90, True), (10, False))
    champion, candidate = predictions(right, probability=0.99), predictions(right, probability=0.98)
    assert criterion(compare(champion, candidate), "calibration").passed


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


def test_without_images_there_is_no_comparison():
    with pytest.raises(ComparisonError, match="no predictions"):
        compare(predictions([]), predictions([]))


@pytest.mark.parametrize("name", ["margin", "level", "calibration_error"])
@pytest.mark.parametrize("value", [-0.1, 5, float("nan")])
def test_a_limit_that_is_no_share_is_rejected(name, value):
    with pytest.raises(ComparisonError, match=name):
        PromotionLimits(**{name: value})


def test_a_level_that_decides_nothing_is_rejected():
    for level in (0, 1):
        with pytest.raises(ComparisonError, match="level"):
            PromotionLimits(level=level)


def test_the_criteria_survive_json():
    comparison = compare(predictions(answers((100, True))), predictions(answers((50, True), (50, False))))
    plain = json.loads(json.dumps([asdict(entry) for entry in comparison.criteria], allow_nan=False))
    assert [Criterion(**entry) for entry in plain] == list(comparison.criteria)


PAIRS = st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(PAIRS)
def test_no_class_falls_where_the_candidate_is_right_wherever_the_champion_is(drawn):
    labels, one, other = (np.array(column) for column in zip(*drawn, strict=True))
    comparison = compare(predictions(one, labels, 0.5), predictions(one | other, labels, 0.5))
    assert criterion(comparison, "class_recall").passed
    assert criterion(comparison, "non_inferiority").figures["difference"] >= 0


@given(PAIRS)
def test_narrower_limits_never_let_more_through(drawn):
    labels, one, other = (np.array(column) for column in zip(*drawn, strict=True))
    both = predictions(one, labels, 0.5), predictions(other, labels, 0.7)
    wide, narrow = PromotionLimits(0.2, 0.05, 0.2), PromotionLimits(0.01, 0.05, 0.01)
    for loose, strict in zip(compare(*both, wide).criteria, compare(*both, narrow).criteria, strict=True):
        assert loose.passed >= strict.passed
