"""The criterion that a model is better than guessing: the only one of accuracy that needs no champion."""

import polars as pl

from captcha_assets.confidence_intervals import wilson
from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.evaluation.formatting import counted, percent


def above_chance(predictions: pl.DataFrame, level: float) -> Criterion:
    """Return whether a model reads more images right than one that always names the most common class.

    The share of the most common class (the no-information rate) is at least 1 / number of classes, so that
    a model that draws a class at random is no better either.

    Args:
        predictions: the columns label and predicted, a row an image; at least one row.
        level: of the test. Wilson's interval of the accuracy has the confidence 1 - level.
    """
    images = len(predictions)
    right = int((predictions["predicted"] == predictions["label"]).sum())
    common = predictions["label"].value_counts(sort=True)["count"][0] / images
    low, high = wilson(right, images, 1 - level)
    shown = (
        f"{percent(right / images)} ({percent(low)} to {percent(high)}) of {counted(images, 'test image')}"
    )
    figures = {"accuracy": right / images, "accuracy_low": low, "guessing": common, "images": images}
    if low > common:
        words = f"it reads {shown} right, always naming the most common class {percent(common)}"
        return Criterion("above_chance", passed=True, figures=figures, words=words)
    words = (
        f"no better than guessing: it reads {shown} right, and always naming the most common class reads "
        f"{percent(common)}; more images, or more epochs, may help"
    )
    return Criterion("above_chance", passed=False, figures=figures, words=words)


def criteria_that_only_warn(candidate: Criterion, champion: Criterion | None) -> frozenset[str]:
    """Return the names of the criteria without which a candidate is promoted all the same.

    A model that guesses is well calibrated where it is as unsure as that, and always right on the images of
    the class that it names: neither keeps a better one out.

    Args:
        candidate: whether the candidate is better than guessing.
        champion: whether the champion is; None where there is none.
    """
    if champion is not None and candidate.passed and not champion.passed:
        return frozenset({"above_chance", "calibration", "class_recall"})
    return frozenset({"above_chance"})
