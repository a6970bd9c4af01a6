"""Comparing the predictions of a day with the reference: tests, correction, alarms.

An alarm needs both: a p-value, corrected for all tests of the day, of at most `FALSE_ALARMS`, and an effect
beyond what `result.LIMITS` tolerates. With few predictions chance rules, with many the effect.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath
from captcha_assets.confidence_intervals import wilson
from captcha_assets.dataset import DatasetSpec
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.monitoring import error_rate, feature_shift, label_shift, two_sample
from captcha_assets.monitoring.result import (
    LIMITS,
    ClassShares,
    Distribution,
    DriftTest,
    ErrorRate,
    Errors,
    Family,
    ServedDrift,
    Severity,
    UnusualImage,
    Window,
)
from captcha_assets.monitoring.sample import Reference, Sample, errors_of, read_window, sample_of
from captcha_assets.quality.drift import DESIGN_EFFECT, STATISTICS

Array = NDArray[np.float64]

#: Probability of an alarm on an undisturbed day, all tests together.
FALSE_ALARMS = 0.01
#: The windows that are compared.
RECENT_DAYS = 7
THE_DAY, RECENT = "the day", f"the last {RECENT_DAYS} days"
#: Fewer predictions than this are not tested.
MIN_PREDICTIONS = 30
#: Permutations of a test; the least p-value is one of so many.
DRAWS = 1999
#: This share of the validation images, those that resemble their class least, is called unusual.
UNUSUAL_SHARE = 0.01
#: So many of the most unusual images are shown.
UNUSUAL = 24

_SEED = 20_261_128


@dataclass(frozen=True)
class _Tested:
    """A test before the correction."""

    family: Family
    name: str
    words: str
    effect: float
    p_value: float
    psi: float | None = None


def served_drift(
    day: str,
    tables: Mapping[str, AnyPath],
    reference: Reference,
    extractor: FeatureExtractor,
    spec: DatasetSpec,
) -> ServedDrift:
    """Compare the predictions of a day, and of the last days together, with the reference.

    Predictions of other models than the reference's are left out.

    Args:
        day: YYYY-MM-DD.
        tables: the prediction log's tables by day; those up to `day` are read.
        reference: what `sample.reference_of` returned for the model.
        extractor: the export of the model.
        spec: how images are decoded.

    Raises:
        DriftError: a table cannot be read, or holds what the model cannot have predicted.
    """
    known = {key: path for key, path in tables.items() if key <= day}
    first = (date.fromisoformat(day) - timedelta(days=RECENT_DAYS - 1)).isoformat()
    recent = [path for key, path in known.items() if key >= first]
    windows = {THE_DAY: read_window([known[day]] if day in known else [], reference.model_id)}
    if len(recent) > 1:
        windows[RECENT] = read_window(recent, reference.model_id)
    samples = {name: sample_of(window.rows, extractor, spec) for name, window in windows.items()}
    counts = {name: window.predictions for name, window in windows.items()}
    found = compare(day, samples, counts, errors_of(known.values(), reference.model_id), reference)
    return replace(found, unusual=unusual_images(samples[THE_DAY], reference))


def not_compared(day: str, model_id: str, predictions: int, reason: str) -> ServedDrift:
    """Return the result of a day that cannot be compared."""
    window = Window(THE_DAY, predictions, (), (), (), (f"not compared: {reason}",))
    return ServedDrift(model_id, day, 0, 0, FALSE_ALARMS, (window,), None)


def compare(
    day: str,
    samples: Mapping[str, Sample],
    predictions: Mapping[str, int],
    errors: Errors,
    reference: Reference,
) -> ServedDrift:
    """Compare samples with the reference; see `served_drift`.

    Args:
        day: YYYY-MM-DD.
        samples: by the name of the window; the first is the day.
        predictions: number of predictions that each sample was drawn from.
        errors: corrections of the model's predictions.
        reference: what the samples are compared with.
    """
    rng = np.random.default_rng(_SEED)
    tested = {name: list(_tests(sample, reference, rng)) for name, sample in samples.items()}
    of_errors = [_error_rate(errors, reference)] if errors.labelled else []
    corrected = iter(_corrected([*tested.values(), of_errors]))
    windows = tuple(
        Window(
            name,
            predictions[name],
            tuple(_decided(test, next(corrected)) for test in tested[name]),
            _shares(sample, reference) if tested[name] else (),
            _distributions(sample, reference) if tested[name] else (),
            tuple(_notes(sample)),
        )
        for name, sample in samples.items()
    )
    found = [_decided(test, next(corrected)) for test in of_errors]
    return ServedDrift(
        reference.model_id,
        day,
        reference.training_images,
        len(reference.labels),
        FALSE_ALARMS,
        windows,
        _proven(errors, reference, found[0], FALSE_ALARMS) if found else None,
    )


def _notes(sample: Sample) -> Iterator[str]:
    """Yield what was not tested, and why."""
    if len(sample) < MIN_PREDICTIONS:
        predictions = {0: "no predictions", 1: "1 prediction"}.get(len(sample), f"{len(sample)} predictions")
        yield f"{predictions}: too few to test for drift, {MIN_PREDICTIONS} are needed"
    elif len(sample.with_features) < MIN_PREDICTIONS:
        yield "sharpness and features are not tested: the images are not in the prediction log"


def _corrected(windows: list[list[_Tested]]) -> Array:
    """Return the corrected p-values of all tests in order; each family of a window has an equal share."""
    tests = [(number, test) for number, window in enumerate(windows) for test in window]
    families = [(number, test.family) for number, test in tests]
    weights = np.array([1 / families.count(family) for family in families])
    return two_sample.holm(np.array([test.p_value for _, test in tests]), weights)


def _decided(test: _Tested, corrected: float) -> DriftTest:
    limits, size = LIMITS[test.family], abs(test.effect)
    severity: Severity = "none"
    if corrected <= FALSE_ALARMS and size >= limits.tolerated:
        severity = "critical" if size >= limits.critical else "warning"
    return DriftTest(
        test.family, test.name, test.words, test.effect, test.p_value, float(corrected), test.psi, severity
    )


# --- the tests of a window


def _tests(sample: Sample, reference: Reference, rng: np.random.Generator) -> Iterator[_Tested]:
    if len(sample) < MIN_PREDICTIONS:
        return
    yield from _input_statistics(sample, reference)
    yield from _predicted_classes(sample, reference)
    yield from _probabilities(sample, reference)
    yield _label_shift(sample, reference, rng)
    if len(sample.with_features) >= MIN_PREDICTIONS:
        yield _features(sample, reference, rng)
        yield _unusual(sample, reference)


def _effective_size(reference: int, sample: int) -> float:
    """Return the effective sample size of a comparison: images cut from one image resemble each other."""
    return reference * sample / (reference + sample) / DESIGN_EFFECT


def _input_statistics(sample: Sample, reference: Reference) -> Iterator[_Tested]:
    for name, before, column in zip(STATISTICS, reference.quantiles, sample.statistics.T, strict=True):
        now = column[np.isfinite(column)]
        if len(now) < MIN_PREDICTIONS:
            continue
        distance = two_sample.ks_distance(before, now)
        p_value = two_sample.ks_p_value(distance, _effective_size(reference.training_images, len(now)))
        shift = (now.mean() - before.mean()) / max(before.std(), 1e-9)
        plain = name.replace("_", " ")
        words = f"{plain}: mean {before.mean():.3g} before, {now.mean():.3g} now"
        words += f", {shift:+.2f} standard deviations"
        yield _Tested("input statistics", plain, words, distance, p_value, two_sample.psi(before, now))


def _distributions(sample: Sample, reference: Reference) -> tuple[Distribution, ...]:
    """Return quantiles for the report: few enough to be kept as JSON."""
    levels, found = np.linspace(0, 1, 101), []
    for name, before, column in zip(STATISTICS, reference.quantiles, sample.statistics.T, strict=True):
        now = column[np.isfinite(column)]
        if len(now):
            both = (np.quantile(values, levels).round(5).tolist() for values in (before, now))
            found.append(Distribution(name.replace("_", " "), *map(tuple, both)))
    return tuple(found)


def _counts(predicted: NDArray[np.int64], classes: int) -> Array:
    return np.bincount(predicted, minlength=classes).astype(np.float64)


def _predicted_classes(sample: Sample, reference: Reference) -> Iterator[_Tested]:
    classes = len(reference.classes)
    before, now = _counts(reference.predicted, classes), _counts(sample.predicted, classes)
    smoothed = [(counts + 0.5) / (counts.sum() + 0.5 * classes) for counts in (before, now)]
    psi = two_sample.psi_of_shares(*smoothed)
    for label, one, other in zip(reference.classes, before, now, strict=True):
        shares = one / before.sum(), other / now.sum()
        yield _Tested(
            "predicted classes",
            label,
            f"class {label}: {_percent(shares[0])} of the predictions before, {_percent(shares[1])} now",
            two_sample.cohens_h(shares[1], shares[0]),
            two_sample.share_p_value((int(one), int(other)), (len(reference.labels), len(sample))),
            psi,
        )


def _probabilities(sample: Sample, reference: Reference) -> Iterator[_Tested]:
    size = _effective_size(len(reference.labels), len(sample))
    columns = zip(reference.classes, reference.probabilities.T, sample.probabilities.T, strict=True)
    for label, before, now in columns:
        distance = two_sample.ks_distance(before, now)
        words = f"probability of {label}: mean {before.mean():.3f} before, {now.mean():.3f} now"
        p_value = two_sample.ks_p_value(distance, size)
        yield _Tested("probabilities", label, words, distance, p_value, two_sample.psi(before, now))


def _shares(sample: Sample, reference: Reference) -> tuple[ClassShares, ...]:
    classes = len(reference.classes)
    confusion = label_shift.confusion_matrix(reference.labels, reference.predicted, classes)
    before, labels = (
        _counts(column, classes) / len(reference.labels) for column in (reference.predicted, reference.labels)
    )
    now = _counts(sample.predicted, classes) / max(len(sample), 1)
    implied = label_shift.implied_shares(confusion, now)
    rows = zip(reference.classes, before, now, labels, implied, strict=True)
    return tuple(ClassShares(label, *map(float, shares)) for label, *shares in rows)


def _label_shift(sample: Sample, reference: Reference, rng: np.random.Generator) -> _Tested:
    """Test whether the classes have other frequencies: they have if the predictions do."""
    shares = _shares(sample, reference)
    before = np.array([one.labels_before for one in shares])
    now = np.array([one.labels_implied for one in shares])
    classes = len(reference.classes)
    counts = [_counts(predicted, classes) for predicted in (reference.predicted, sample.predicted)]
    most = shares[int(np.abs(now - before).argmax())]
    distance = label_shift.total_variation(before, now)
    words = (
        f"the predictions imply that {_percent(distance)} of the images have another class than before, "
        f"most: {most.label}, {_percent(most.labels_before)} before, {_percent(most.labels_implied)} now"
    )
    p_value = two_sample.counts_p_value(counts[0], counts[1], DRAWS, rng)
    return _Tested("label shift", "classes", words, distance, p_value)


def _features(sample: Sample, reference: Reference, rng: np.random.Generator) -> _Tested:
    before, now = (one.features.astype(np.float64) for one in (reference, sample))
    found = feature_shift.discriminate(before, now, DRAWS, rng, DESIGN_EFFECT)
    words = (
        f"a linear classifier tells a served image from a validation image in {_percent(found.auc)} of the "
        "pairs, where 50 % is chance"
    )
    return _Tested("features", "penultimate features", words, found.auc, found.p_value)


@dataclass(frozen=True)
class _Usual:
    """How far images of the validation split are from those of their class, and the share that is unusual."""

    features: feature_shift.ClassFeatures
    threshold: float
    unusual: int
    images: int

    @classmethod
    def of(cls, reference: Reference) -> "_Usual":
        """Describe one half of the features of the reference, and measure the other half with it."""
        half, images = len(reference.features) // 2, len(reference.features)
        features, predicted = reference.features.astype(np.float64), reference.predicted[:images]
        described = feature_shift.ClassFeatures.of(
            features[:half], reference.labels[:half], len(reference.classes)
        )
        distances = described.distances(features[half:], predicted[half:])
        threshold = float(np.quantile(distances, 1 - UNUSUAL_SHARE))
        return cls(described, threshold, int(np.count_nonzero(distances > threshold)), images - half)

    def distances(self, sample: Sample) -> Array:
        """Return how far the images of a sample are from those of their predicted class."""
        return self.features.distances(
            sample.features.astype(np.float64), sample.predicted[sample.with_features]
        )


def _unusual(sample: Sample, reference: Reference) -> _Tested:
    usual, n = _Usual.of(reference), len(sample.with_features)
    found = int(np.count_nonzero(usual.distances(sample) > usual.threshold))
    shares = usual.unusual / usual.images, found / n
    independent = round(found / DESIGN_EFFECT), round(n / DESIGN_EFFECT)
    words = (
        f"{_percent(shares[1])} of the images are further from their predicted class than "
        f"{_percent(1 - shares[0])} of the validation images are"
    )
    p_value = two_sample.share_p_value((usual.unusual, independent[0]), (usual.images, independent[1]))
    more = max(two_sample.cohens_h(shares[1], shares[0]), 0.0)
    return _Tested("unusual images", "images", words, more, p_value)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# --- corrections and unusual images


def _tolerated_rate(reference: Reference) -> float:
    """Return the error rate that corrections must exceed: what chance may have hidden in the validation."""
    return min(wilson(reference.wrong, len(reference.labels)).high, 1 - 1e-9)


def _error_rate(errors: Errors, reference: Reference) -> _Tested:
    before, now = reference.wrong / len(reference.labels), errors.wrong / errors.predictions
    words = (
        f"{errors.wrong:,} of {errors.predictions:,} predictions are corrected as wrong ({_percent(now)} "
        f"at least), {_percent(before)} on the validation split"
    )
    p_value = error_rate.p_value(errors.wrong, errors.predictions, _tolerated_rate(reference))
    return _Tested("error rate", "corrections", words, max(now - before, 0.0), p_value)


def _proven(errors: Errors, reference: Reference, test: DriftTest, alpha: float) -> ErrorRate:
    at_least = error_rate.lower_bound(errors.wrong, errors.predictions, alpha)
    return ErrorRate(errors, reference.wrong / len(reference.labels), at_least, 1 - alpha, test)


def unusual_images(sample: Sample, reference: Reference) -> tuple[UnusualImage, ...]:
    """Return the images that are furthest from those of their predicted class, the furthest first."""
    if len(sample.with_features) == 0:
        return ()
    distances = _Usual.of(reference).distances(sample)
    furthest = np.argsort(-distances, kind="stable")[:UNUSUAL]
    return tuple(
        UnusualImage(
            str(sample.inference_ids[row]),
            reference.classes[sample.predicted[row]],
            float(sample.probabilities[row].max()),
            round(float(distance), 3),
        )
        for row, distance in zip(sample.with_features[furthest], distances[furthest], strict=True)
    )
