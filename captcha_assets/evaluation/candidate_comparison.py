"""Compares a candidate with the champion on the same images.

The criteria are pure functions of counts: on how many images of each class only the candidate is right,
on how many only the champion is. `compare` counts them from predictions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from captcha_assets.confidence_intervals import Interval, images_needed, paired_difference
from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.evaluation.formatting import counted, percent, points
from captcha_assets.evaluation.metrics import (
    calibration_bins,
    exact_mcnemar,
    expected_calibration_error,
    holm,
)

_KEYS = ["image_id", "label"]


class ComparisonError(ValueError):
    """Predictions that cannot be compared, or limits that limit nothing; the message says what to do."""


@dataclass(frozen=True)
class PromotionLimits:
    """How much worse a candidate may be and still be promoted. All are shares, 0..1.

    Attributes:
        margin: the candidate's accuracy must be shown to be above the champion's minus this.
        level: of the tests. The interval of the difference of accuracy is the two-sided one with the
            confidence 1 - level. Two equally good models differ by the recall of a class no more
            often than this, over all classes together.
        calibration_error: highest expected calibration error, unless the champion's is higher still.

    Raises:
        ComparisonError: a limit is no share, or the level is 0 or 1.
    """

    margin: float = 0.005
    level: float = 0.05
    calibration_error: float = 0.05

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value <= 1:
                raise ComparisonError(f"{entry.name}={value!r} is no share: give a number from 0 to 1")
        if self.level in (0, 1):
            raise ComparisonError(
                f"level={self.level!r} is no level of a test: give a number between 0 and 1"
            )


@dataclass(frozen=True)
class PairedCounts:
    """How two models read the same images, counted by class.

    `images`, `champion_right`, `gained` (only the candidate is right) and `lost` (only the champion is) have
    an entry for each of `classes`.
    """

    classes: tuple[str, ...]
    images: npt.NDArray[np.int64]
    champion_right: npt.NDArray[np.int64]
    gained: npt.NDArray[np.int64]
    lost: npt.NDArray[np.int64]

    @cached_property
    def n(self) -> int:
        """All images."""
        return int(self.images.sum())

    @cached_property
    def discordant(self) -> tuple[int, int]:
        """On how many images only the candidate is right, and only the champion."""
        return int(self.gained.sum()), int(self.lost.sum())

    @property
    def champion_accuracy(self) -> float:
        """Share of the images that the champion reads correctly."""
        return int(self.champion_right.sum()) / self.n

    @property
    def candidate_accuracy(self) -> float:
        """Share of the images that the candidate reads correctly."""
        gained, lost = self.discordant
        return (int(self.champion_right.sum()) + gained - lost) / self.n

    def difference(self, level: float) -> Interval:
        """Return the interval of (candidate's accuracy - champion's) with the confidence 1 - level."""
        return paired_difference(*self.discordant, self.n, 1 - level)


def count_pairs(
    classes: Sequence[str],
    labels: npt.NDArray[np.integer],
    champion_right: npt.NDArray[np.bool_],
    candidate_right: npt.NDArray[np.bool_],
) -> PairedCounts:
    """Count by class how two models read the same images; `labels` are indices into `classes`."""

    def count(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.bincount(labels[chosen], minlength=len(classes))

    return PairedCounts(
        classes=tuple(classes),
        images=np.bincount(labels, minlength=len(classes)),
        champion_right=count(champion_right),
        gained=count(candidate_right & ~champion_right),
        lost=count(champion_right & ~candidate_right),
    )


@dataclass(frozen=True)
class Comparison:
    """The outcome for a candidate, and the accuracy of both on the n images they were compared on."""

    n: int
    champion_accuracy: float
    candidate_accuracy: float
    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate meets every criterion."""
        return all(criterion.passed for criterion in self.criteria)

    @property
    def superior(self) -> bool:
        """Whether the candidate is more accurate beyond chance."""
        return any(criterion.figures.get("superior", False) for criterion in self.criteria)


def compare(
    champion_predictions: pl.DataFrame,
    candidate_predictions: pl.DataFrame,
    limits: PromotionLimits | None = None,
    *,
    newer_data: str | None = None,
    reference_predictions: pl.DataFrame | None = None,
) -> Comparison:
    """Compare what two models say of the same images.

    Args:
        champion_predictions: the columns image_id, label, predicted and probability (of the predicted
            class), as `evaluate` gives them; the order of the rows is of no matter.
        candidate_predictions: the same of the other model.
        limits: how much worse the candidate may be; the default limits where None.
        newer_data: in words, what the candidate was trained on and the champion was not.
        reference_predictions: the same of a former champion that the candidate must not be worse than
            either, where there is one.

    Raises:
        ComparisonError: there are no images, or not the same ones.
    """
    limits = limits or PromotionLimits()
    pairs = _paired(champion_predictions, candidate_predictions)
    counts, reference = _counts(pairs), None
    if reference_predictions is not None:
        reference = _counts(_paired(reference_predictions, candidate_predictions))
    return Comparison(
        n=counts.n,
        champion_accuracy=counts.champion_accuracy,
        candidate_accuracy=counts.candidate_accuracy,
        criteria=(
            *accuracy_criteria(counts, limits, newer_data=newer_data, reference=reference),
            _calibration(pairs, limits.calibration_error),
        ),
    )


def accuracy_criteria(
    counts: PairedCounts,
    limits: PromotionLimits,
    *,
    newer_data: str | None,
    reference: PairedCounts | None = None,
) -> tuple[Criterion, Criterion, Criterion]:
    """Return the criteria that rest on right and wrong answers alone.

    Args:
        counts: how the champion and the candidate read the images.
        limits: how much worse the candidate may be.
        newer_data: in words, what the candidate was trained on and the champion was not.
        reference: the same counts against a former champion, where there is one to be held to.
    """
    return (
        _non_inferiority(counts, limits, reference),
        _reason_to_change(counts, limits, newer_data),
        _class_recall(counts, limits.level),
    )


def _paired(champion: pl.DataFrame, candidate: pl.DataFrame) -> pl.DataFrame:
    """Return a row per image: label, and of either model whether it is right and how sure it was."""
    both = [_answers(champion, "champion"), _answers(candidate, "candidate")]
    pairs = both[0].join(both[1], on=_KEYS).sort("image_id")
    if not len(pairs) == len(champion) == len(candidate) == pairs["image_id"].n_unique():
        raise ComparisonError(
            f"the champion's {counted(len(champion), 'prediction')} and the candidate's {len(candidate):,} "
            f"have {counted(len(pairs), 'image')} in common, label included: evaluate both on the same splits"
        )
    if pairs.is_empty():
        raise ComparisonError("there are no predictions to compare: evaluate both models on a test split")
    return pairs


def _answers(predictions: pl.DataFrame, name: str) -> pl.DataFrame:
    right = pl.col("predicted") == pl.col("label")
    return predictions.select(
        *_KEYS, right.alias(f"{name}_right"), pl.col("probability").alias(f"{name}_probability")
    )


def _counts(pairs: pl.DataFrame) -> PairedCounts:
    classes, labels = np.unique(pairs["label"].to_numpy(), return_inverse=True)
    right = [pairs[f"{name}_right"].to_numpy() for name in ("champion", "candidate")]
    return count_pairs([str(name) for name in classes], labels, *right)


def _non_inferiority(
    counts: PairedCounts, limits: PromotionLimits, reference: PairedCounts | None
) -> Criterion:
    interval = counts.difference(limits.level)
    held_to = [("champion", counts)] + ([("reference", reference)] if reference else [])
    worse = [name for name, found in held_to if found.difference(limits.level).low <= -limits.margin]
    figures: dict[str, Any] = {
        "champion": counts.champion_accuracy,
        "candidate": counts.candidate_accuracy,
        "difference": counts.candidate_accuracy - counts.champion_accuracy,
        "difference, low": interval.low,
        "difference, high": interval.high,
        "margin": limits.margin,
        "level": limits.level,
        "only the candidate is right": counts.discordant[0],
        "only the champion is right": counts.discordant[1],
        "images": counts.n,
    }
    if reference:
        figures["reference"] = reference.champion_accuracy
        figures["difference from the reference, low"] = reference.difference(limits.level).low
    return Criterion("non_inferiority", not worse, figures, _difference_in_words(counts, limits, worse))


def _difference_in_words(counts: PairedCounts, limits: PromotionLimits, worse: Sequence[str]) -> str:
    low, high = counts.difference(limits.level)
    (gained, lost), margin = counts.discordant, points(limits.margin)
    measured = (
        f"accuracy {percent(counts.candidate_accuracy, 2)}, champion {percent(counts.champion_accuracy, 2)}: "
        f"a difference of {points(low, sign=True)} to {points(high, sign=True)} points "
        f"({counted(gained, 'image')} gained, {lost:,} lost)"
    )
    if not worse:
        return f"{measured}; a loss of {margin} points is excluded"
    if worse == ["reference"]:
        return (
            f"{measured}; a loss of {margin} points is not excluded against the last model that was promoted "
            "for its accuracy"
        )
    if high < -limits.margin:
        return f"{measured}; a loss of more than {margin} points is certain at this level"
    needed = images_needed(limits.margin, 1 - limits.level) if limits.margin else 0
    too_few = counts.n < needed and counts.candidate_accuracy >= counts.champion_accuracy - limits.margin
    few = (
        f": that takes {needed:,} test images, a wider CAPTCHA_PROMOTION_MARGIN, or a person "
        "(captcha-assets model promote)"
    )
    return f"{measured}; a loss of {margin} points is not excluded{few if too_few else ''}"


def _reason_to_change(counts: PairedCounts, limits: PromotionLimits, newer_data: str | None) -> Criterion:
    low, _ = counts.difference(limits.level)
    superior = low > 0
    figures = {"difference, low": low, "superior": superior, "newer data": newer_data or "no"}
    if superior:
        words = f"more accurate by {points(low)} points at least"
    elif newer_data:
        words = f"newer data: {newer_data}"
    else:
        words = "no reason to change: not more accurate beyond chance, and trained on no newer data"
    return Criterion("reason_to_change", superior or newer_data is not None, figures, words)


def _class_recall(counts: PairedCounts, level: float) -> Criterion:
    p = exact_mcnemar(counts.gained, counts.lost)
    worse = holm(p, level)
    order = np.argsort(p, kind="stable")
    rows = [_class_figures(counts, int(index), float(p[index])) for index in order if counts.images[index]]
    fallen = [counts.classes[index] for index in order if worse[index]]
    figures = {"level": level, "fallen": fallen, "classes": rows}
    return Criterion("class_recall", not fallen, figures, _recall_in_words(fallen, rows[0], level))


def _class_figures(counts: PairedCounts, index: int, p: float) -> dict[str, Any]:
    images, right = int(counts.images[index]), int(counts.champion_right[index])
    gained, lost = int(counts.gained[index]), int(counts.lost[index])
    return {
        "label": counts.classes[index],
        "images": images,
        "champion": right / images,
        "candidate": (right + gained - lost) / images,
        "gained": gained,
        "lost": lost,
        "p": p,
    }


def _recall_in_words(fallen: list[str], worst: Mapping[str, Any], level: float) -> str:
    change = (
        f"{worst['label']} from {percent(worst['champion'])} to {percent(worst['candidate'])} "
        f"on {counted(worst['images'], 'image')} (p {worst['p']:.2g})"
    )
    if fallen:
        others = f", and also {', '.join(fallen[1:])}" if len(fallen) > 1 else ""
        return f"recall falls beyond chance: {change}{others}"
    return f"no class's recall falls beyond chance (level {level:g} over all classes); the lowest p: {change}"


def _calibration(pairs: pl.DataFrame, limit: float) -> Criterion:
    champion, candidate = (
        expected_calibration_error(
            calibration_bins(pairs[f"{name}_probability"].to_numpy(), pairs[f"{name}_right"].to_numpy())
        )
        for name in ("champion", "candidate")
    )
    passed = candidate <= max(limit, champion)
    return Criterion(
        "calibration",
        passed,
        {"champion": champion, "candidate": candidate, "limit": limit},
        f"calibration error {candidate:.3f} is {'' if passed else 'not '}within the limit of {limit:g} "
        f"or the champion's {champion:.3f}",
    )
