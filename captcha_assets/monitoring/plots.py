"""Plots of the comparison of a window: input statistics, classes, probabilities."""

import io
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from captcha_assets.monitoring.result import LIMITS, Family, Window
from captcha_assets.quality.drift_plot import ALARM, BEFORE, MUTED, NOW, STYLE, draw_distribution, write_title


def plot(window: Window) -> bytes:
    """Draw how a window differs from the reference; what drifted has a red title.

    Args:
        window: one with enough predictions to be tested.

    Returns:
        A PNG, 860 pixels wide: the UI shows images at their own size.
    """
    drifted: set[tuple[Family, str]] = {
        (test.family, test.name) for test in window.tests if test.severity != "none"
    }
    families = {family for family, _ in drifted}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, 7.2), dpi=100, layout="constrained")
        parts: Any = figure.subfigures(3, 1, height_ratios=[1, 1.1, 1])
        top, middle, bottom = parts
        for axes, one in zip(
            top.subplots(1, max(len(window.distributions), 1), squeeze=False)[0],
            window.distributions,
            strict=False,
        ):
            draw_distribution(axes, np.array(one.before), np.array(one.now))
            write_title(axes, one.name, passed=("input statistics", one.name) not in drifted)
        classes, probabilities = middle.subplots(), bottom.subplots()
        _draw_classes(classes, window)
        passed = not families & {"predicted classes", "label shift"}
        write_title(classes, "predicted classes", passed=passed)
        _draw_probabilities(probabilities, window)
        title = "probabilities: Kolmogorov-Smirnov distance"
        write_title(probabilities, title, passed="probabilities" not in families)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_classes(axes: Axes, window: Window) -> None:
    positions = np.arange(len(window.shares))
    before, now = ([getattr(one, name) for one in window.shares] for name in ("before", "now"))
    implied = [one.labels_implied for one in window.shares]
    axes.bar(positions - 0.2, before, width=0.4, color=BEFORE, label="validation split")
    axes.bar(positions + 0.2, now, width=0.4, color=NOW, label=f"{window.name} ({window.predictions:,})")
    axes.plot(
        positions + 0.2,
        implied,
        "D",
        color="white",
        markeredgecolor=NOW,
        markersize=4,
        label="implied labels",
    )
    _name_classes(axes, window)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1.25 * max(*before, *now, *implied))
    axes.legend(loc="upper right", bbox_to_anchor=(1, 1.2), ncols=3, borderaxespad=0)


def _draw_probabilities(axes: Axes, window: Window) -> None:
    tests = [test for test in window.tests if test.family == "probabilities"]
    colours = [ALARM if test.severity != "none" else NOW for test in tests]
    axes.bar(np.arange(len(tests)), [test.effect for test in tests], width=0.6, color=colours)
    tolerated = LIMITS["probabilities"].tolerated
    axes.axhline(tolerated, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "tolerated", (1, tolerated), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=MUTED
    )
    axes.set_xlim(-0.8, len(tests) + 1.2)  # room for the word
    axes.set_ylim(0, max(0.2, *(1.1 * test.effect for test in tests)))
    _name_classes(axes, window)


def _name_classes(axes: Axes, window: Window) -> None:
    axes.set_xticks(np.arange(len(window.shares)), [one.label for one in window.shares])
    axes.tick_params(axis="x", length=0)
