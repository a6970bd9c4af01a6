"""Drift of a batch against the images that the model was trained on.

Both sides are summarized in one pass (`summarize`); the summaries, a few hundred kilobytes whatever the
number of images, are compared (`compare`). Six features are compared: the distributions of brightness,
contrast, foreground fraction and sharpness, the class frequencies, and the shapes: the mean image of each
class, coarsely, along the directions in which images of one class differ most (principal components).
Shapes are compared class by class, so that another mix of classes does not pass for other letters.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import stats

from captcha_assets.atomic_files import AnyPath, fetched, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.features import thumbnails
from captcha_assets.images.table_files import require_columns

Array = NDArray[Any]

#: The statistics whose distributions are compared; the last is computed here.
STATISTICS = ("brightness", "contrast", "foreground_fraction", "sharpness")
#: All that is compared.
FEATURES = (*STATISTICS, "class_frequencies", "shapes")

#: Fewer training images than this say too little about what is usual.
MIN_REFERENCE = 200

# With thousands of images every p-value is tiny, so that a difference nobody would see counts as
# significant. An alarm therefore asks for more: a difference beyond what is tolerated, by more than chance
# explains. With few images chance sets the threshold, with many images the tolerance.

#: Rate of alarms among undisturbed batches, all features together (divided among them).
FALSE_ALARMS = 0.01
#: Images cut from one drawn image resemble each other, so that they hold less information than their number:
#: the effective sample size of real ones is 1/1.4 of their number, of generated ones 1/1.5; the rest is
#: margin. (Their classes do not depend on each other.)
DESIGN_EFFECT = 2.0
#: Tolerated difference of the distributions of a statistic: at most this share of the images would have to
#: change places (the Kolmogorov-Smirnov distance). A shift by a quarter of a standard deviation.
TOLERATED_DISTANCE = 0.1
#: Tolerated change of a class's frequency, as a part of itself; as in `suites.CLASS_TOLERANCE`.
TOLERATED_CLASS_CHANGE = 0.25
#: Tolerated shift of the class's mean images, in standard deviations of single images, along the
#: directions in which images of one class differ most.
TOLERATED_SHAPE_SHIFT = 0.1

_LEVELS = np.linspace(0, 1, 1001)
_COARSE = 4  # a coarse pixel is the sum of 4 x 4
_COMPONENTS = 24
_ROWS_AT_ONCE = 8192


class DriftError(ValueError):
    """Two sets of images that cannot be compared."""


@dataclass(frozen=True)
class Summary:
    """What is kept of a set of images.

    Attributes:
        classes: in their canonical order.
        quantiles: float64 (4, 1001), evenly spaced quantiles of each of `STATISTICS`.
        counts: int64 (classes,), images of each class.
        means: float32 (classes, h, w), the mean thumbnail of each class; zeros where there is none.
        covariance: float64 (n, n), of the coarse pixels within the classes, a sixteenth of the pixels.
    """

    classes: tuple[str, ...]
    quantiles: Array
    counts: Array
    means: Array
    covariance: Array

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class DriftFeature:
    """How one feature of a batch differs from the reference.

    Attributes:
        name: one of `FEATURES`.
        words: what was found.
        statistic: the size of the difference: Kolmogorov-Smirnov distance of a statistic, Cohen's w of the
            class frequencies, standard deviations of the shapes.
        threshold: above this the difference is an alarm: what is tolerated, and what chance may add.
        p_value: probability of at least such a difference if the true one were just tolerated.
        passed: whether it is no alarm.
    """

    name: str
    words: str
    statistic: float
    threshold: float
    p_value: float
    passed: bool

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")


@dataclass(frozen=True)
class DriftResult:
    """How a batch differs from what the model was trained on.

    Attributes:
        features: one for each of `FEATURES`.
        images: number of images of the batch.
        reference_images: number of images of the reference.
    """

    features: tuple[DriftFeature, ...]
    images: int
    reference_images: int

    @property
    def passed(self) -> bool:
        """Whether there is no alarm."""
        return not self.drifted

    @property
    def drifted(self) -> tuple[DriftFeature, ...]:
        """The features that drifted."""
        return tuple(feature for feature in self.features if not feature.passed)

    def table(self) -> pd.DataFrame:
        """Return what the suite `drift` validates: a row for each feature."""
        rows = [
            {
                "feature": one.title,
                "found": one.words,
                "difference": one.statistic,
                "threshold": one.threshold,
            }
            for one in self.features
        ]
        return pd.DataFrame(rows)


# --- what is kept of a set of images


class _Sums:
    """Sums over images, from which a summary is computed. All are integers, so the order is free."""

    def __init__(self, spec: DatasetSpec) -> None:
        none = thumbnails(np.zeros((0, *spec.shape), np.uint8))
        coarse = _coarsened(none).shape[1]
        self.classes = spec.classes
        self.statistics: list[Array] = []
        self.counts = np.zeros(len(spec.classes), np.int64)
        self.pixels = np.zeros((len(spec.classes), *none.shape[1:]))
        self.products: Array = np.zeros((coarse, coarse))

    def add(self, pixels: Array, labels: Array, statistics: Array) -> None:
        """Add thumbnails (n, h, w), positions of their classes (n,), the stored statistics (n, 3)."""
        members = (labels[:, None] == np.arange(len(self.classes))).astype(np.float32)
        coarse = _coarsened(pixels.astype(np.float64))
        self.counts += members.sum(axis=0).astype(np.int64)
        flat = pixels.reshape(len(pixels), math.prod(pixels.shape[1:])).astype(np.float32)
        self.pixels += (members.T @ flat).reshape(self.pixels.shape)
        self.products += coarse.T @ coarse
        edges = sharpness(pixels, statistics[:, 1])
        self.statistics.append(np.column_stack([statistics, edges]))

    def summary(self) -> Summary:
        """Return the summary of all that was added."""
        every = np.concatenate([np.zeros((0, len(STATISTICS))), *self.statistics])
        quantiles = np.quantile(every, _LEVELS, axis=0).T if len(every) else np.zeros((len(STATISTICS), 1001))
        divisor: Array = np.maximum(self.counts, 1)[:, None]
        coarse = _coarsened(self.pixels)
        within = self.products - (coarse / divisor).T @ coarse
        spare = max(len(every) - int(np.count_nonzero(self.counts)), 1)
        means = (self.pixels / divisor[:, None]).astype(np.float32)
        return Summary(self.classes, quantiles, self.counts, means, within / spare)


def _coarsened(images: Array) -> Array:
    """Return the sums of whole blocks of pixels: (n, h, w) to (n, blocks)."""
    count, *size = images.shape
    rows, columns = (side // _COARSE for side in size)
    whole = images[:, : rows * _COARSE, : columns * _COARSE]
    blocks = whole.reshape(count, rows, _COARSE, columns, _COARSE)
    return blocks.sum(axis=(2, 4)).reshape(count, rows * columns)


def sharpness(pixels: Array, contrast: Array) -> Array:
    """Return the mean difference of neighbouring pixels, as a part of the contrast.

    Args:
        pixels: thumbnails (n, h, w).
        contrast: of the images (n,).
    """
    signed = pixels.astype(np.int16)
    down, across = (np.abs(np.diff(signed, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
    return np.asarray((down + across) / np.maximum(contrast, 1))


def summarize(tables: Sequence[AnyPath], spec: DatasetSpec, splits: AnyPath | None = None) -> Summary:
    """Summarize image tables in one pass; memory does not grow with them.

    Args:
        tables: image tables.
        spec: their classes and the size of an image.
        splits: only images that have the split `train` here are summarized; all of them without it.
    """
    wanted = None if splits is None else _training_images(splits)
    sums = _Sums(spec)
    for table in tables:
        with fetched(table) as local:
            for rows in _rows(str(local), spec, wanted):
                sums.add(*_arrays(rows, spec))
    return sums.summary()


def _training_images(splits: AnyPath) -> pa.Array:
    with fetched(splits) as local:
        rows = pq.read_table(local, columns=["image_id", "split"])
    return rows.filter(pc.equal(rows["split"], "train"))["image_id"].combine_chunks()


def _rows(path: str, spec: DatasetSpec, wanted: pa.Array | None) -> Iterator[pa.Table]:
    """Yield the usable rows of a table, some thousand at a time."""
    names = ["image_id", "label", "pixels", *STATISTICS[:3]]
    require_columns(Path(path), names)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=names)
            known = pc.is_in(rows["label"], pa.array(spec.classes))
            keep = known if wanted is None else pc.and_(known, pc.is_in(rows["image_id"], wanted))
            kept = rows.filter(keep)
            yield from (kept.slice(start, _ROWS_AT_ONCE) for start in range(0, len(kept), _ROWS_AT_ONCE))


def _arrays(rows: pa.Table, spec: DatasetSpec) -> tuple[Array, Array, Array]:
    """Return thumbnails (n, h, w), positions of the labels (n,), the stored statistics (n, 3)."""
    pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), np.uint8).reshape(-1, *spec.shape)
    labels = pc.index_in(rows["label"], pa.array(spec.classes)).to_numpy()
    return thumbnails(pixels), labels, np.column_stack([rows[name].to_numpy() for name in STATISTICS[:3]])


def save(summary: Summary, path: AnyPath) -> None:
    """Write a summary as a `.npz` file."""
    arrays = {name: np.asarray(value) for name, value in asdict(summary).items()}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: AnyPath, spec: DatasetSpec) -> Summary:
    """Read what `save` wrote.

    Raises:
        DriftError: it is absent, unreadable, or of other classes.
    """
    again = "captcha-assets update summarizes the training images again"
    try:
        with fetched(path) as local, np.load(local, allow_pickle=False) as arrays:
            kept = {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise DriftError(f"{path} cannot be read ({error}): {again}") from error
    if tuple(kept.pop("classes", ())) != spec.classes:
        raise DriftError(f"{path} was computed with other classes: {again}")
    return Summary(spec.classes, **kept)


# --- the comparison


def compare(reference: Summary, batch: Summary) -> DriftResult:
    """Compare a batch with the training images.

    Args:
        reference: summary of the training images.
        batch: summary of the batch; a few dozen images can only show large differences.

    Raises:
        DriftError: the reference has too few images, or the batch none.
    """
    if reference.images < MIN_REFERENCE:
        raise DriftError(
            f"{reference.images} training images are too few to say what is usual: {MIN_REFERENCE} are needed"
        )
    if batch.images == 0:
        raise DriftError("no usable images to compare")
    distributions = (_distribution(reference, batch, name) for name in STATISTICS)
    features = (*distributions, _frequencies(reference, batch), _shapes(reference, batch))
    return DriftResult(features, batch.images, reference.images)


#: Probability of an alarm that chance is allowed for each feature.
_ALPHA = FALSE_ALARMS / len(FEATURES)


def _effective_size(reference: Array | int, batch: Array | int) -> Array:
    """Return the effective sample size of two samples in a comparison with each other."""
    return reference * batch / np.maximum(reference + batch, 1) / DESIGN_EFFECT


def _distribution(reference: Summary, batch: Summary, name: str) -> DriftFeature:
    before, now = (each.quantiles[STATISTICS.index(name)] for each in (reference, batch))
    root = np.sqrt(_effective_size(reference.images, batch.images))
    distance = float(stats.ks_2samp(before, now, method="asymp").statistic)
    threshold = TOLERATED_DISTANCE + stats.kstwobign.isf(_ALPHA) / root
    p_value = stats.kstwobign.sf(root * max(distance - TOLERATED_DISTANCE, 0))
    shift = (now.mean() - before.mean()) / max(before.std(), 1e-9)
    words = f"mean {before.mean():.3g} before, {now.mean():.3g} now ({shift:+.2f} standard deviations)"
    return _feature(name, words, distance, threshold, p_value)


def _feature(name: str, words: str, statistic: float, threshold: float, p_value: float) -> DriftFeature:
    passed = bool(statistic <= threshold)
    return DriftFeature(name, words, float(statistic), float(threshold), float(p_value), passed)


def _frequencies(reference: Summary, batch: Summary) -> DriftFeature:
    """Compare the class whose frequency is the least likely, were it just as far off as is tolerated."""
    # Half an image more of each class: one that the reference lacks is rare, not impossible.
    before, total = reference.counts + 0.5, (reference.counts + 0.5).sum()
    low, high = (
        stats.betabinom(batch.images, before * factor, total - before * factor)
        for factor in (1 - TOLERATED_CLASS_CHANGE, 1 + TOLERATED_CLASS_CHANGE)
    )
    each = np.minimum(low.cdf(batch.counts), high.sf(batch.counts - 1))
    tests = 2 * len(reference.classes)
    usual, shares = before / total, batch.counts / batch.images
    worst = int(np.lexsort((-np.abs(shares / usual - 1), each))[0])
    bound = high.isf(_ALPHA / tests) if shares[worst] > usual[worst] else low.ppf(_ALPHA / tests)
    threshold = np.abs(bound[worst] / batch.images / usual[worst] - 1)
    changed = np.argsort(each, kind="stable")[:3]
    words = ", ".join(
        f"{reference.classes[i]} {100 * usual[i]:.1f} % before, {100 * shares[i]:.1f} % now" for i in changed
    )
    p_value = min(1.0, float(each[worst]) * tests)
    return _feature("class_frequencies", words, abs(shares[worst] / usual[worst] - 1), threshold, p_value)


def _shapes(reference: Summary, batch: Summary) -> DriftFeature:
    """Compare the mean images of the classes.

    The sum of squares is distributed as chi-squared where there is no difference, and as a non-central
    chi-squared where the true difference is just the tolerated one.
    """
    axes = _axes(reference.covariance)
    before, now = (_coarsened(each.means.astype(np.float64)) @ axes for each in (reference, batch))
    size = _effective_size(reference.counts, batch.counts)
    by_class = size * ((now - before) ** 2).sum(axis=1)
    shifts = np.sqrt(((now - before) ** 2).mean(axis=1))
    furthest = [i for i in np.argsort(-by_class, kind="stable")[:3] if size[i]]
    degrees_of_freedom = max(int(np.count_nonzero(size)) * axes.shape[1], 1)
    whole_size = max(float(size.sum()) * axes.shape[1], 1e-9)
    squares, centre = float(by_class.sum()), whole_size * TOLERATED_SHAPE_SHIFT**2
    classes = reference.classes
    return _feature(
        "shapes",
        "furthest off: " + ", ".join(f"{classes[i]} ({shifts[i]:.2f} standard deviations)" for i in furthest),
        np.sqrt(squares / whole_size),
        np.sqrt(stats.ncx2.isf(_ALPHA, degrees_of_freedom, centre) / whole_size),
        stats.ncx2.sf(squares, degrees_of_freedom, centre),
    )


def _axes(covariance: Array) -> Array:
    """Return the principal components (coarse pixels, at most 24) of unit variance within the classes."""
    variances, directions = np.linalg.eigh(covariance)
    largest = np.argsort(-variances, kind="stable")[:_COMPONENTS]
    largest = largest[variances[largest] > 1e-9 * max(variances.max(), 1e-9)]
    return directions[:, largest] / np.sqrt(variances[largest])
