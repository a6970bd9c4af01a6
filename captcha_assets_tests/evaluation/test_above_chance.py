"""A model is better than guessing only where its figures show it."""

import polars as pl
import pytest

from captcha_assets.evaluation.above_chance import above_chance, criteria_that_only_warn


def answers(labels: str, predicted: str) -> pl.DataFrame:
    """Answers to as many images as there are labels, of one letter each."""
    return pl.DataFrame({"label": list(labels), "predicted": list(predicted)})


def test_a_model_that_always_names_the_most_common_class_is_no_better_than_guessing() -> None:
    found = above_chance(answers(900 * "a" + 100 * "b", 1000 * "a"), 0.05)
    assert not found.passed
    assert found.words.startswith("no better than guessing: it reads 90.0 %")
    assert "always naming the most common class reads 90.0 %" in found.words


@pytest.mark.parametrize(("right", "passed"), [(5, False), (8, False), (20, True), (100, True)])
def test_of_20_classes_the_interval_must_exclude_a_twentieth(right: int, passed: bool) -> None:
    labels = "abcdefghijklmnopqrst" * 5
    found = above_chance(answers(labels, labels[:right] + "?" * (100 - right)), 0.05)
    assert found.passed is passed, found.words
    assert found.figures["guessing"] == 0.05


@pytest.mark.parametrize(("right", "passed"), [(3, False), (10, True)])
def test_of_ten_images_of_two_classes_all_right_are_enough_and_three_are_not(
    right: int, passed: bool
) -> None:
    assert (
        above_chance(answers("aaaaabbbbb", "aaaaabbbbb"[:right] + "?" * (10 - right)), 0.05).passed is passed
    )


def test_a_champion_that_guesses_keeps_no_better_model_out_by_what_guessing_is_good_at() -> None:
    labels = "abcdefghijklmnopqrst" * 5
    good, guesses = (above_chance(answers(labels, said), 0.05) for said in (labels, "a" * len(labels)))
    assert criteria_that_only_warn(good, guesses) == {"above_chance", "calibration", "class_recall"}
    for candidate, champion in (
        (good, None),
        (guesses, None),
        (good, good),
        (guesses, good),
        (guesses, guesses),
    ):
        assert criteria_that_only_warn(candidate, champion) == {"above_chance"}
