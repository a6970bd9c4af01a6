"""Days drawn from the pools, and what the library says of them."""

from dataclasses import dataclass

import numpy as np

from benchmarks.drift.pool import Pool
from captcha_assets.dataset import CAPTCHA
from captcha_assets.monitoring.drift_detection import compare
from captcha_assets.monitoring.result import Errors, ServedDrift
from captcha_assets.monitoring.sample import MAX_FEATURES, Reference, Sample
from captcha_assets.sources.kaptcha_renderer import LENGTH

#: Images of a reference.
TRAINING, VALIDATION = 4000, 2000
_LEVELS = np.linspace(0, 1, 1001)
#: The class that becomes more frequent.
FREQUENT = "w"


@dataclass(frozen=True)
class Day:
    """One day to replay: so many predictions, of which a share is disturbed.

    `together` says whether the characters of an image are served together, as those of a captcha are, or
    every image is independent. `frequency` is how much more frequent one class is than usual.
    """

    size: int
    seed: int
    disturbed: str = ""
    share: float = 1.0
    together: bool = True
    frequency: float = 1.0


def _rows_of(pictures: np.ndarray) -> np.ndarray:
    return (pictures[:, None] * LENGTH + np.arange(LENGTH)).ravel()


def _undisturbed(pool: Pool, day: Day, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the day, and rows of other pictures for the reference."""
    pictures = rng.permutation(len(pool) // LENGTH)
    if day.together:
        count = -(-day.size // LENGTH)
        return _rows_of(pictures[:count])[: day.size], _rows_of(pictures[count:])
    half = len(pictures) // 2
    rows = _rows_of(pictures[:half])
    weights = np.where(pool.labels[rows] == CAPTCHA.classes.index(FREQUENT), day.frequency, 1.0)
    chosen = rng.choice(rows, day.size, p=weights / weights.sum())
    return chosen, _rows_of(pictures[half:])


def _reference(pool: Pool, rows: np.ndarray, rng: np.random.Generator) -> Reference:
    """A new reference each day: with one alone its own chance would decide about all days."""
    taken = rng.choice(rows, TRAINING + VALIDATION, replace=False)
    training, validation = pool.take(taken[:TRAINING]), pool.take(taken[TRAINING:])
    quantiles = np.quantile(training.statistics, _LEVELS, axis=0).T
    return Reference(
        "benchmark",
        CAPTCHA.classes,
        quantiles,
        TRAINING,
        validation.labels,
        validation.probabilities,
        validation.features[:MAX_FEATURES],
    )


def _sample(pool: Pool) -> Sample:
    order = np.random.default_rng(0).permutation(len(pool))
    pool = pool.take(order)
    names = np.array([str(number) for number in order])
    rows = np.arange(len(pool))[:MAX_FEATURES]
    return Sample(
        names,
        pool.probabilities.argmax(axis=1),
        pool.statistics,
        pool.probabilities,
        rows,
        pool.features[:MAX_FEATURES],
    )


def _joined(one: Pool, other: Pool) -> Pool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return Pool(*(np.concatenate(pair) for pair in pairs))


def replay(pools: dict[str, Pool], day: Day) -> ServedDrift:
    """Draw a day and compare it with a reference that is drawn for it."""
    rng = np.random.default_rng([day.seed, day.size])
    pool = pools["undisturbed"]
    rows, others = _undisturbed(pool, day, rng)
    reference, drawn = _reference(pool, others, rng), pool.take(rows)
    if day.disturbed:
        count = round(day.share * day.size)
        other = pools[day.disturbed]
        pictures = rng.integers(len(other) // LENGTH, size=-(-count // LENGTH))
        drawn = _joined(drawn.take(np.arange(day.size - count)), other.take(_rows_of(pictures)[:count]))
    return compare(
        "2026-11-28", {"the day": _sample(drawn)}, {"the day": day.size}, Errors(day.size, 0, 0), reference
    )


@dataclass(frozen=True)
class Outcome:
    """What was said of one day.

    Its severity, the families of tests that raised an alarm, and whether p-values alone would have done so.
    """

    severity: str
    alarms: frozenset[str]
    by_p_value_alone: bool


def outcome(pools: dict[str, Pool], day: Day) -> Outcome:
    result = replay(pools, day)
    alarms = frozenset(test.family for test in result.tests if test.severity != "none")
    return Outcome(
        result.severity, alarms, any(test.corrected <= result.false_alarms for test in result.tests)
    )
