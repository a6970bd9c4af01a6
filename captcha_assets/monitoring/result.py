"""The result of a comparison of served predictions with the reference: plain values, as JSON too."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from captcha_assets.confidence_intervals import Interval, wilson

Severity = Literal["none", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("none", "warning", "critical")

#: What is compared; every family of tests is given an equal share of the false alarms.
Family = Literal[
    "input statistics",
    "predicted classes",
    "probabilities",
    "label shift",
    "features",
    "unusual images",
    "error rate",
]


@dataclass(frozen=True)
class Limits:
    """How large an effect is tolerated, and from where on it is critical."""

    name: str
    tolerated: float
    critical: float


#: The effect sizes of each family.
LIMITS: dict[Family, Limits] = {
    "input statistics": Limits("Kolmogorov-Smirnov distance", 0.1, 0.3),
    "predicted classes": Limits("Cohen's h", 0.1, 0.3),
    "probabilities": Limits("Kolmogorov-Smirnov distance", 0.1, 0.3),
    "label shift": Limits("total variation distance", 0.1, 0.25),
    "features": Limits("AUC", 0.6, 0.8),
    "unusual images": Limits("Cohen's h", 0.1, 0.3),
    "error rate": Limits("increase", 0.02, 0.1),
}


@dataclass(frozen=True)
class DriftTest:
    """One test: a difference from the reference, its size, and whether chance explains it.

    Attributes:
        family: what is compared.
        name: the statistic, or the class.
        words: what was found.
        effect: the size of the difference, as `LIMITS` names it.
        p_value: probability of at least such a difference where there is none.
        corrected: the p-value after the correction for all tests of the day.
        psi: the population stability index, which decides nothing; None where there is none.
        severity: "none" unless both the corrected p-value and the effect are beyond their limits.
    """

    family: Family
    name: str
    words: str
    effect: float
    p_value: float
    corrected: float
    psi: float | None
    severity: Severity

    @property
    def sentence(self) -> str:
        """What was found, with the figures."""
        limits = LIMITS[self.family]
        p = "p < 0.0001" if self.corrected < 1e-4 else f"p = {self.corrected:.2g}"
        return f"{self.words} ({limits.name} {self.effect:.2f}, tolerated {limits.tolerated:g}; {p})"


@dataclass(frozen=True)
class ClassShares:
    """Shares of a class: predicted in the reference and in the window, and implied by the predictions."""

    label: str
    before: float
    now: float
    labels_before: float
    labels_implied: float


@dataclass(frozen=True)
class Distribution:
    """Evenly spaced quantiles of an input statistic: of the training images, and of the window."""

    name: str
    before: tuple[float, ...]
    now: tuple[float, ...]


@dataclass(frozen=True)
class Window:
    """The comparison of one window of predictions.

    Attributes:
        name: "the day" or "the last 7 days".
        predictions: number of predictions in it.
        tests: empty where there are too few predictions.
        shares: of each class; empty where there are too few predictions.
        distributions: of each input statistic; empty where there are too few predictions.
        notes: what was not tested, and why.
    """

    name: str
    predictions: int
    tests: tuple[DriftTest, ...]
    shares: tuple[ClassShares, ...]
    distributions: tuple[Distribution, ...]
    notes: tuple[str, ...]

    @property
    def severity(self) -> Severity:
        """The highest severity of its tests."""
        return highest(test.severity for test in self.tests)


@dataclass(frozen=True)
class Errors:
    """Corrections of a model's predictions, since it began to serve.

    Attributes:
        predictions: number of its predictions.
        labelled: predictions with a label from a person.
        wrong: those whose label is another than the predicted class.
    """

    predictions: int
    labelled: int
    wrong: int


@dataclass(frozen=True)
class ErrorRate:
    """The error rate that corrections prove, beside that on the validation split."""

    errors: Errors
    reference: float
    at_least: float
    confidence: float
    test: DriftTest

    @property
    def of_labelled(self) -> Interval | None:
        """Wilson's 95 % interval of the error rate among labelled predictions; None without any."""
        found = self.errors
        return wilson(found.wrong, found.labelled) if found.labelled else None


@dataclass(frozen=True)
class UnusualImage:
    """A served image, and how far it is from the images of its predicted class; 1 is usual."""

    inference_id: str
    label: str
    score: float
    distance: float


@dataclass(frozen=True)
class ServedDrift:
    """How the predictions of a day differ from what the model was trained and validated on.

    Attributes:
        model_id: the model.
        day: the day, as YYYY-MM-DD.
        training_images: number of images it was trained on.
        validation_images: number of validation images that were compared with.
        false_alarms: probability of an alarm on an undisturbed day, all tests together.
        windows: the day, and the last days together where there are any.
        error_rate: None where there are no corrections.
        unusual: the most unusual images of the day.
    """

    model_id: str
    day: str
    training_images: int
    validation_images: int
    false_alarms: float
    windows: tuple[Window, ...]
    error_rate: ErrorRate | None
    unusual: tuple[UnusualImage, ...] = ()

    @property
    def tests(self) -> tuple[DriftTest, ...]:
        """All tests."""
        errors = (self.error_rate.test,) if self.error_rate else ()
        return (*(test for window in self.windows for test in window.tests), *errors)

    @property
    def severity(self) -> Severity:
        """The highest severity of all tests."""
        return highest(test.severity for test in self.tests)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What drifted, by window and family, the most severe first; and what was not tested."""
        found = [one for window in self.windows for one in _sentences(window)]
        if self.error_rate and self.error_rate.test.severity != "none":
            found.insert(0, f"error rate: {self.error_rate.test.sentence}")
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        found = asdict(self)
        for window, one in zip(self.windows, found["windows"], strict=True):
            one["severity"] = window.severity
        return {**found, "severity": self.severity, "sentences": list(self.sentences)}


def highest(severities: Iterable[Severity]) -> Severity:
    """Return the highest of severities, "none" of none."""
    return max(severities, key=SEVERITIES.index, default="none")


def _sentences(window: Window) -> list[str]:
    found: list[tuple[Severity, str]] = []
    for family, limits in LIMITS.items():
        alarms = [test for test in window.tests if test.family == family and test.severity != "none"]
        if not alarms:
            continue
        tested = sum(test.family == family for test in window.tests)
        worst = max(alarms, key=lambda test: abs(test.effect) / limits.tolerated)
        how_many = f"{len(alarms)} of {tested} drifted, most: " if tested > 1 else ""
        severity = highest(test.severity for test in alarms)
        found.append((severity, f"{window.name}, {family}: {how_many}{worst.sentence}"))
    found.sort(key=lambda one: SEVERITIES.index(one[0]), reverse=True)
    return [*(sentence for _, sentence in found), *(f"{window.name}: {note}" for note in window.notes)]
