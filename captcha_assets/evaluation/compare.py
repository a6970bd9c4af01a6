"""Is the candidate worse than the champion where it matters? One clause for each thing that does.

Both are measured on the same images; the clauses are pure functions of what each said of them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import polars as pl

from captcha_assets.evaluation.clauses import Clause
from captcha_assets.evaluation.metrics import calibration_bins, expected_calibration_error, mcnemar
from captcha_assets.evaluation.words import counted, percent

_KEYS = ["image_id", "label"]


class ComparisonError(ValueError):
    """Predictions that cannot be compared, or limits that limit nothing; the message says what to do."""


@dataclass(frozen=True)
class PromotionLimits:
    """How much worse a candidate may be and still be promoted. All are shares, 0..1.

    Attributes:
        accuracy_level: level of the paired test. A lower accuracy counts as worse where chance alone would
            give so low a one less often than this, were both models equally good (McNemar, one-sided).
        recall_fall: how far the recall of a class may fall. One image is always allowed: a class with few
            test images would otherwise fail by chance.
        calibration_error: highest expected calibration error, unless the champion's is higher still.

    Raises:
        ComparisonError: a limit is no share.
    """

    accuracy_level: float = 0.05
    recall_fall: float = 0.05
    calibration_error: float = 0.05

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0 <= value <= 1:
                raise ComparisonError(f"{entry.name}={value!r} is no share: give a number from 0 to 1")


@dataclass(frozen=True)
class Comparison:
    """The verdict on a candidate, and the accuracy of both on the n images they were compared on."""

    n: int
    champion_accuracy: float
    candidate_accuracy: float
    clauses: tuple[Clause, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate is worse in no clause."""
        return all(clause.passed for clause in self.clauses)

    @property
    def better(self) -> bool:
        """Whether the candidate reads more of the images correctly."""
        return self.candidate_accuracy > self.champion_accuracy

    @property
    def words(self) -> str:
        """The verdict in one line: what speaks against the candidate, or that nothing does."""
        against = [clause.words for clause in self.clauses if not clause.passed]
        accuracies = f"{percent(self.candidate_accuracy, 2)} against {percent(self.champion_accuracy, 2)}"
        return "; ".join(against) if against else f"worse in nothing that matters: accuracy {accuracies}"

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values, fit for JSON."""
        return {**asdict(self), "passed": self.passed, "better": self.better, "words": self.words}


def compare(
    champion_predictions: pl.DataFrame,
    candidate_predictions: pl.DataFrame,
    limits: PromotionLimits | None = None,
) -> Comparison:
    """Compare what two models say of the same images.

    Args:
        champion_predictions: the columns image_id, label, predicted and probability (of the predicted
            class), as `evaluate` gives them; the order of the rows is of no matter.
        candidate_predictions: the same of the other model.
        limits: how much worse the candidate may be; the default limits where None.

    Raises:
        ComparisonError: there are no images, or not the same ones.
    """
    limits = limits or PromotionLimits()
    pairs = _paired(champion_predictions, candidate_predictions)
    return Comparison(
        n=len(pairs),
        champion_accuracy=_share(pairs["champion_right"]),
        candidate_accuracy=_share(pairs["candidate_right"]),
        clauses=(
            _accuracy(pairs, limits.accuracy_level),
            _recall(pairs, limits.recall_fall),
            _calibration(pairs, limits.calibration_error),
        ),
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


def _share(right: pl.Series) -> float:
    return int(right.sum()) / len(right)


def _accuracy(pairs: pl.DataFrame, level: float) -> Clause:
    gained, lost, p = mcnemar(pairs["champion_right"].to_numpy(), pairs["candidate_right"].to_numpy(), "less")
    champion, candidate = _share(pairs["champion_right"]), _share(pairs["candidate_right"])
    passed = gained >= lost or p >= level
    verdict = "not lower beyond chance" if passed else "lower beyond chance"
    return Clause(
        "accuracy",
        passed,
        {
            "champion": champion,
            "candidate": candidate,
            "only the candidate is right": gained,
            "only the champion is right": lost,
            "p": p,
            "level": level,
        },
        f"accuracy {percent(candidate, 2)} is {verdict} than the champion's {percent(champion, 2)} "
        f"({counted(gained, 'image')} gained, {lost:,} lost, p {p:.2g}, level {level:g})",
    )


def _recall(pairs: pl.DataFrame, limit: float) -> Clause:
    classes = (
        pairs.group_by("label")
        .agg(
            pl.len().alias("images"),
            pl.col("champion_right").mean().alias("champion"),
            pl.col("candidate_right").mean().alias("candidate"),
            (pl.col("champion_right").sum().cast(pl.Int64) - pl.col("candidate_right").sum()).alias("lost"),
        )
        .with_columns(fall=pl.col("lost") / pl.col("images"))
        .sort("fall", "label", descending=[True, False])
    )
    fallen = classes.filter((pl.col("fall") > limit) & (pl.col("lost") > 1))
    worst = (classes if fallen.is_empty() else fallen).row(0, named=True)
    return Clause(
        "class_recall",
        fallen.is_empty(),
        {"limit": limit, "fallen": fallen["label"].to_list(), "classes": classes.drop("lost").to_dicts()},
        _recall_in_words(fallen["label"].to_list(), worst, limit),
    )


def _recall_in_words(fallen: list[str], worst: Mapping[str, Any], limit: float) -> str:
    change = (
        f"{worst['label']} from {percent(worst['champion'])} to {percent(worst['candidate'])} "
        f"on {counted(worst['images'], 'image')}"
    )
    if fallen:
        others = f", and also {', '.join(fallen[1:])}" if len(fallen) > 1 else ""
        return f"recall falls by more than {percent(limit)}: {change}{others}"
    return f"no class's recall falls by more than {percent(limit)} and one image; the most: {change}"


def _calibration(pairs: pl.DataFrame, limit: float) -> Clause:
    champion, candidate = (
        expected_calibration_error(
            calibration_bins(pairs[f"{name}_probability"].to_numpy(), pairs[f"{name}_right"].to_numpy())
        )
        for name in ("champion", "candidate")
    )
    passed = candidate <= max(limit, champion)
    return Clause(
        "calibration",
        passed,
        {"champion": champion, "candidate": candidate, "limit": limit},
        f"calibration error {candidate:.3f} is {'' if passed else 'not '}within the limit of {limit:g} "
        f"or the champion's {champion:.3f}",
    )
