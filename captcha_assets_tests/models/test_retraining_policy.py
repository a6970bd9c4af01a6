"""A training starts by itself when there is a reason, only then, and once for each."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.models.retraining_policy import (
    Limits,
    Situation,
    differing_settings,
    in_words,
    reasons,
    waits_for_labels,
)

LIMITS = Limits(new_images=100, new_share=0.1, corrections=60)
TRAINED = Situation("one", 2000, 0, (), ("1", "1"), ("a", "a"))
DRIFTS = replace(TRAINED, served_drift="critical drift on 2026-11-28: predicted classes")
NOTHING = Situation(None, 0, 50, (), ("1", None), ("a", None))


def triggers(now: Situation, handled: Situation | None = None) -> list[str]:
    return [reason.trigger for reason in reasons(now, handled, LIMITS)]


def test_nothing_new_is_no_reason() -> None:
    assert triggers(TRAINED) == []


def test_the_first_model_needs_no_number_of_images() -> None:
    assert triggers(NOTHING) == ["first model"]


def test_new_images_are_a_reason_when_they_are_enough_by_number_and_by_share() -> None:
    assert triggers(replace(TRAINED, new_images=199)) == []  # 10 % of 2,000 are 200
    assert triggers(replace(TRAINED, new_images=200)) == ["new images"]
    small = replace(TRAINED, trained_images=300)
    assert triggers(replace(small, new_images=99)) == []  # a third, but fewer than 100
    assert triggers(replace(small, new_images=100)) == ["new images"]


def test_removed_images_are_a_reason_when_they_are_enough() -> None:
    assert triggers(replace(TRAINED, removed_images=199)) == []
    gone = replace(TRAINED, removed_images=200)
    assert triggers(gone) == ["removed images"]
    assert triggers(gone, gone) == []
    assert in_words(gone, LIMITS).startswith(
        "0 new training images since one (a training starts at 200); 200 that it was trained on are no longer"
    )


def test_a_drifted_batch_a_new_code_and_a_new_configuration_are_reasons() -> None:
    assert triggers(replace(TRAINED, drifted=("october",))) == ["drift"]
    assert triggers(replace(TRAINED, code=("2", "1"))) == ["code"]
    assert triggers(replace(TRAINED, configuration=("b", "a"))) == ["configuration"]


def test_another_configuration_is_named_by_the_settings_that_differ() -> None:
    trained = {"epochs": 3, "sample_size": None, "channels": [8, 16, 32, 64], "unknown": 1}
    wanted = {"epochs": 12, "sample_size": 7000, "channels": [8, 16, 32, 64], "batch_size": 64}
    differing = differing_settings(trained, wanted)
    assert differing == (
        "epochs: trained with 3, production 12; sample_size: trained with all, production 7000"
    )
    other = replace(TRAINED, configuration=("0a1b2c", "3d4e5f"), differing=differing)
    words = f"not trained with the production settings: {differing}"
    assert [reason.words for reason in reasons(other, None, LIMITS)] == [words]
    unknown = replace(other, differing="")
    for one in (other, unknown):
        assert in_words(one, LIMITS).endswith("not trained with the production settings (a training starts)")


def test_served_drift_is_a_reason_when_there_are_corrections_to_learn_from() -> None:
    assert triggers(replace(DRIFTS, corrections=59)) == []
    assert triggers(replace(DRIFTS, corrections=60)) == ["served drift"]
    assert triggers(replace(TRAINED, corrections=60)) == [], "there is no drift"


def test_served_drift_is_a_reason_when_there_is_a_new_batch_to_learn_from() -> None:
    assert triggers(replace(DRIFTS, new_batches=("october",))) == ["served drift"]
    assert triggers(replace(TRAINED, new_batches=("october",))) == [], "there is no drift"


def test_served_drift_asks_again_only_when_there_is_more_to_learn_from() -> None:
    asked = replace(DRIFTS, corrections=60, new_batches=("october",))
    assert triggers(replace(asked, corrections=119), asked) == []
    assert triggers(replace(asked, served_drift="critical drift on 2026-11-29: features"), asked) == []
    assert triggers(replace(asked, corrections=120), asked) == ["served drift"]
    assert triggers(replace(asked, new_batches=("november", "october")), asked) == ["served drift"]


def test_served_drift_that_has_too_little_to_learn_from_waits_for_labels() -> None:
    assert waits_for_labels(replace(DRIFTS, corrections=59), LIMITS)
    assert not waits_for_labels(replace(DRIFTS, corrections=60), LIMITS)
    assert not waits_for_labels(replace(DRIFTS, new_batches=("october",)), LIMITS)
    assert not waits_for_labels(TRAINED, LIMITS)


def test_the_reason_and_the_status_name_the_drift_and_what_there_is_to_learn_from() -> None:
    now = replace(DRIFTS, corrections=60, new_batches=("october",))
    (reason,) = reasons(now, None, LIMITS)
    assert reason.words == (
        "critical drift on 2026-11-28: predicted classes; to learn from: 60 new corrections, of at least 60; "
        "new batches: october"
    )
    assert "served predictions: no drift" in in_words(TRAINED, LIMITS)
    unknown = in_words(TRAINED, LIMITS, without_alarm="not checked yet")
    assert "served predictions: not checked yet; " in unknown
    assert (
        "2026-11-28: predicted classes (3 new corrections, a training starts at 60; new batches: none)"
        in in_words(replace(DRIFTS, corrections=3), LIMITS)
    )


def test_a_model_that_does_not_say_what_it_was_configured_with_is_no_reason() -> None:
    assert triggers(replace(TRAINED, configuration=("b", None))) == []


def test_every_reason_says_its_figures() -> None:
    (reason,) = reasons(replace(TRAINED, new_images=250), None, LIMITS)
    assert reason.words == "250 new training images since one; a training starts at 200"
    assert "250 new training images since one (a training starts at 200)" in in_words(
        replace(TRAINED, new_images=250), LIMITS
    )


@pytest.mark.parametrize("now", [NOTHING, replace(TRAINED, new_images=9000, drifted=("x",), code=("2", "1"))])
def test_nothing_is_trained_while_a_blocking_check_fails(now: Situation) -> None:
    assert triggers(now) != []
    blocked = replace(now, blocked=("a blocking check of splits fails",))
    assert triggers(blocked) == []
    assert in_words(blocked, LIMITS) == "no training: a blocking check of splits fails"


def test_a_failed_training_is_asked_for_again_only_when_there_is_more() -> None:
    asked = replace(TRAINED, new_images=250)
    assert triggers(replace(asked, new_images=251), asked) == []
    assert triggers(replace(asked, new_images=449), asked) == []
    assert triggers(replace(asked, new_images=450), asked) == ["new images"]
    assert triggers(replace(asked, drifted=("october",)), asked) == ["drift"]
    assert triggers(replace(NOTHING, new_images=51), NOTHING) == []


def test_a_new_model_makes_the_last_request_history() -> None:
    asked = replace(TRAINED, new_images=250)
    later = Situation("two", 2250, 225, (), ("1", "1"), ("a", "a"))
    assert triggers(later, asked) == ["new images"]


words = st.text("abc", min_size=1, max_size=2)
situations = st.builds(
    Situation,
    model_id=st.sampled_from([None, "one", "two"]),
    trained_images=st.integers(0, 5000),
    new_images=st.integers(0, 5000),
    drifted=st.lists(words, unique=True, max_size=3).map(tuple),
    code=st.tuples(words, st.none() | words),
    configuration=st.tuples(words, st.none() | words),
    blocked=st.lists(words, max_size=1).map(tuple),
    removed_images=st.integers(0, 5000),
    served_drift=st.none() | words,
    corrections=st.integers(0, 500),
    new_batches=st.lists(words, unique=True, max_size=3).map(tuple),
)


@given(situations, st.none() | situations)
def test_never_twice_for_one_reason(now: Situation, handled: Situation | None) -> None:
    """Whatever was asked for, the same situation asks for nothing more."""
    if triggers(now, handled):
        assert triggers(now, now) == []


@given(situations)
def test_what_is_remembered_comes_back_as_it_was(now: Situation) -> None:
    assert Situation.from_json(now.to_json()) == now


@pytest.mark.parametrize("text", [None, "", "null", "{}", "[]", "7", "{", '{"model": "of another version"}'])
def test_what_cannot_be_read_is_not_remembered(text: str | None) -> None:
    assert Situation.from_json(text) is None
