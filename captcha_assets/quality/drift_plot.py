"""A plot of a batch beside the training images: distributions, class frequencies, mean images."""

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from captcha_assets.quality.drift import STATISTICS, DriftResult, Summary

Array = NDArray[Any]

#: Colours and style of every plot of drift.
BEFORE, NOW, ALARM, MUTED = "#b9c2cc", "#2a6fb0", "#c8442f", "#66727f"
STYLE: Any = {
    "axes.edgecolor": "#c9d1d9",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "legend.frameon": False,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}


def plot(reference: Summary, batch: Summary, result: DriftResult) -> bytes:
    """Draw how a batch differs from the training images; what drifted has a red title.

    Args:
        reference: summary of the training images.
        batch: summary of the batch.
        result: what `compare` says of the two.

    Returns:
        A PNG, 860 pixels wide: the UI shows images at their own size.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 6.9), dpi=100, layout="constrained")
        parts: Any = figure.subfigures(3, 1, height_ratios=[1, 1, 1.15])
        top, middle, bottom = parts
        passed = {feature.name: feature.passed for feature in result.features}
        for position, axes in enumerate(top.subplots(1, len(STATISTICS))):
            draw_distribution(axes, reference.quantiles[position], batch.quantiles[position])
            write_title(axes, STATISTICS[position].replace("_", " "), passed=passed[STATISTICS[position]])
        frequencies, shapes = middle.subplots(), bottom.subplots()
        _draw_frequencies(frequencies, reference, batch)
        write_title(frequencies, "class frequencies", passed=passed["class_frequencies"])
        _draw_shapes(shapes, reference, batch)
        write_title(shapes, "mean images of the classes", passed=passed["shapes"])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def write_title(axes: Axes, text: str, *, passed: bool) -> None:
    """Write the title of a part of a plot, in red where it drifted."""
    axes.set_title(
        text if passed else f"{text}: drifted",
        loc="left",
        fontsize=9,  # four of them stand side by side
        fontweight="bold",
        color="#1f2933" if passed else ALARM,
    )


def draw_distribution(axes: Axes, before: Array, now: Array) -> None:
    """Draw histograms of two distributions, each given by evenly spaced quantiles."""
    ends = min(before[0], now[0]), max(before[-1], now[-1])
    edges = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), 41).tolist()
    # Evenly spaced quantiles stand for the images themselves.
    axes.hist(before, edges, density=True, color=BEFORE)
    axes.hist(now, edges, density=True, histtype="step", color=NOW, linewidth=1.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _draw_frequencies(axes: Axes, reference: Summary, batch: Summary) -> None:
    positions = np.arange(len(reference.classes))
    for offset, summary, color, name in (
        (-0.2, reference, BEFORE, "training images"),
        (0.2, batch, NOW, "this batch"),
    ):
        label = f"{name} ({summary.images:,})"
        shares = summary.counts / max(summary.images, 1)
        axes.bar(positions + offset, shares, width=0.4, color=color, label=label)
    axes.set_xticks(positions, reference.classes)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def _draw_shapes(axes: Axes, reference: Summary, batch: Summary) -> None:
    absent = ((reference.counts == 0) | (batch.counts == 0))[:, None, None]
    before, now = (np.where(absent, np.nan, each.means) for each in (reference, batch))
    # Half the contrast of the images themselves is room enough for a difference.
    difference = 255 - 2 * np.abs(now - before).clip(max=127.5)
    rows = [_in_a_row(images) for images in (before, now, difference)]
    axes.imshow(np.vstack(rows), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    classes, (height, width) = reference.classes, reference.means.shape[1:]
    axes.set_xticks((np.arange(len(classes)) + 0.5) * (width + 4) - 2, classes)
    axes.set_yticks((np.arange(3) + 0.5) * (height + 4) - 2, ["training", "batch", "difference"])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _in_a_row(images: Array) -> Array:
    """Return images (n, height, width) side by side, with a margin of 4 pixels."""
    padded = np.pad(images, ((0, 0), (0, 4), (0, 4)), constant_values=np.nan)
    return np.hstack(list(padded))
