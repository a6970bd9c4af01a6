"""Metrics of predictions: accuracy with its interval, figures of each class, and calibration.

Everything is computed from the probabilities, (N, C), and the true labels, (N,). Shares lie in 0..1.
A figure that the data cannot give (the recall of a class without test images) is None, never a number.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from captcha_assets.confidence_intervals import Interval, wilson

#: Bins of equal width over the confidence, for the calibration error and its diagram.
CALIBRATION_BINS = 15

#: Digits that are kept in written figures: far below what a test split can tell apart, and above the
#: rounding that differs from one machine to the next.
DIGITS = 6


class MetricsError(ValueError):
    """Predictions that cannot be measured; the message says what is wrong with them."""


class CalibrationBin(NamedTuple):
    """The n predictions whose confidence lies in (low, high]; both means are None where n is 0."""

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class ClassMetrics:
    """One class. `support` counts its test images, `predicted` the images taken for it.

    Precision is None where nothing was predicted as this class; recall, its interval and F1 are None
    where the class has no test images.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None


@dataclass(frozen=True)
class BatchMetrics:
    """How the test images of one batch were read: n of them, so many correctly."""

    batch: str
    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of its images that were read correctly."""
        return self.correct / self.n

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.n)


@dataclass(frozen=True)
class Metrics:
    """What `compute_metrics` found; `confusion[i][j]` counts images of class i taken for class j.

    `accuracy_low`, `accuracy_high`: Wilson's 95 % interval. `macro_f1`: mean over the classes that have
    test images. `ece`: expected calibration error of the predicted class's probability. `nll`: mean
    negative log-likelihood in nats. `brier`: mean squared distance of the probabilities from the truth,
    0..2. `missing`: the classes without test images.
    """

    n: int
    classes: tuple[str, ...]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float
    ece: float
    nll: float
    brier: float
    per_class: tuple[ClassMetrics, ...]
    missing: tuple[str, ...]
    calibration: tuple[CalibrationBin, ...]
    confusion: npt.NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain lists, dicts and rounded numbers, fit for JSON."""
        plain = {
            **asdict(self),
            "calibration": [bin_._asdict() for bin_ in self.calibration],
            "confusion": self.confusion.tolist(),
        }
        return {name: _rounded(value) for name, value in plain.items()}


def compute_metrics(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: Sequence[str]
) -> Metrics:
    """Measure predictions against the truth.

    Args:
        probabilities: (N, C), each row sums to 1.
        labels: (N,), index of the true class.
        classes: the C names.

    Raises:
        MetricsError: nothing to measure, shapes that do not fit, labels or probabilities out of range.
    """
    _check(probabilities, labels, classes)
    exact = probabilities.astype(np.float64)
    predicted = exact.argmax(axis=1)
    correct = predicted == labels
    confusion = _confusion(labels, predicted, len(classes))
    per_class = tuple(_class_metrics(name, confusion, index) for index, name in enumerate(classes))
    bins = calibration_bins(exact.max(axis=1), correct)
    truth = np.eye(len(classes))[labels]
    # A class that a softmax in float32 gives 0 would make one mistake infinitely bad.
    likelihood = np.maximum(exact[np.arange(len(labels)), labels], np.finfo(np.float32).tiny)
    interval = wilson(int(correct.sum()), len(labels))
    return Metrics(
        n=len(labels),
        classes=tuple(classes),
        accuracy=float(correct.mean()),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        macro_f1=float(np.mean([entry.f1 for entry in per_class if entry.f1 is not None])),
        ece=expected_calibration_error(bins),
        nll=float(-np.log(likelihood).mean()),
        brier=float(np.square(exact - truth).sum(axis=1).mean()),
        per_class=per_class,
        missing=tuple(entry.name for entry in per_class if entry.support == 0),
        calibration=bins,
        confusion=confusion,
    )


def calibration_bins(
    confidence: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_]
) -> tuple[CalibrationBin, ...]:
    """Sort predictions by confidence, (N,), into `CALIBRATION_BINS` bins of equal width over 0..1."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bin_index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    bins = []
    for index in range(CALIBRATION_BINS):
        inside = bin_index == index
        count = int(inside.sum())
        bins.append(
            CalibrationBin(
                low=float(edges[index]),
                high=float(edges[index + 1]),
                n=count,
                confidence=float(confidence[inside].mean()) if count else None,
                accuracy=float(correct[inside].mean()) if count else None,
            )
        )
    return tuple(bins)


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean distance of accuracy from confidence over the bins, weighted by their counts."""
    total = sum(entry.n for entry in bins)
    gaps = (
        entry.n * abs(entry.accuracy - entry.confidence)
        for entry in bins
        if entry.accuracy is not None and entry.confidence is not None
    )
    return sum(gaps) / total


def exact_mcnemar(gained: npt.NDArray[np.integer], lost: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Test, for each pair of counts, whether a second model is worse than a first: McNemar, exact, one-sided.

    Q. McNemar (1947): Note on the sampling error of the difference between correlated proportions or
    percentages. Psychometrika 12, 153-157; exact by the binomial distribution.

    Args:
        gained: (N,), images on which only the second model is right.
        lost: (N,), images on which only the first is.

    Returns:
        The p-values, (N,): how often chance alone gives so few gains or fewer, were both equally good. 1.0
        where the two never differ.
    """
    return np.asarray(binom.cdf(gained, gained + lost, 0.5), np.float64)


def holm(p: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.bool_]:
    """Say which of several hypotheses to reject, so that a true one is among them with `level` at most.

    S. Holm (1979): A simple sequentially rejective multiple test procedure. Scandinavian Journal of
    Statistics 6, 65-70.
    """
    order = np.argsort(p, kind="stable")
    kept = np.flatnonzero(p[order] > level / np.arange(len(p), 0, -1))
    rejected = np.zeros(len(p), bool)
    rejected[order[: kept[0] if len(kept) else len(p)]] = True
    return rejected


def _check(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], classes: Sequence[str]
) -> None:
    expected = (len(labels), len(classes))
    if len(labels) == 0:
        raise MetricsError("there are no predictions to measure; give at least one labelled image")
    if probabilities.shape != expected:
        raise MetricsError(f"probabilities have shape {probabilities.shape}, {expected} is needed")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise MetricsError(f"labels run from {labels.min()} to {labels.max()}, classes to {len(classes) - 1}")
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if not (probabilities.min() >= 0 and np.allclose(sums, 1, atol=1e-3)):
        row = int(np.argmax(~np.isclose(sums, 1, atol=1e-3) | ~(probabilities.min(axis=1) >= 0)))
        raise MetricsError(f"row {row} of the probabilities sums to {sums[row]}; give softmax's output")


def _confusion(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], count: int
) -> npt.NDArray[np.int64]:
    pairs = labels.astype(np.int64) * count + predicted
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def _class_metrics(name: str, confusion: npt.NDArray[np.int64], index: int) -> ClassMetrics:
    right = int(confusion[index, index])
    support = int(confusion[index].sum())
    predicted = int(confusion[:, index].sum())
    interval = wilson(right, support) if support else None
    return ClassMetrics(
        name=name,
        support=support,
        predicted=predicted,
        precision=right / predicted if predicted else None,
        recall=right / support if support else None,
        recall_low=interval.low if interval else None,
        recall_high=interval.high if interval else None,
        f1=2 * right / (support + predicted) if support else None,
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
