"""Plots of sweeps. Each function returns a PNG, `plot_style.WIDTH` pixels wide."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from captcha_assets.evaluation.formatting import counted, percent
from captcha_assets.evaluation.plot_style import (
    BLUE,
    MUTED,
    RED,
    WIDTH,
    add_axes,
    as_png,
    new_figure,
    write,
)
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED, Record

#: Parameters that are shown at most.
MOST_PARAMETERS = 12

#: A parameter of so many values, or fewer, has one position for each value.
_FEW = 6

_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")


@as_png
def progress(records: Sequence[Record]) -> Figure:
    """Draw the accuracy of every trial in the order of the trials, and the best so far.

    Args:
        records: the trials of one sweep.
    """
    counts = {state: sum(record.state == state for record in records) for state in (PRUNED, FAILED)}
    figure = new_figure(
        440,
        "Trials in their order",
        f"{counted(len(records), 'trial')}, {counts[PRUNED]} stopped early, {counts[FAILED]} failed",
    )
    axes = add_axes(figure, 75, 120, WIDTH - 115, 255)
    numbers = [int(record.trial.rpartition("-")[2]) for record in records]
    low = _accuracy_axis(axes, records)
    values = np.array([record.value if record.state == COMPLETE else np.nan for record in records], float)
    if np.isfinite(values).any():
        best = np.fmax.accumulate(values)
        axes.step(numbers, best, where="post", color=BLUE, linewidth=1.5, label="best so far", zorder=1)
    _states(axes, numbers, records, low)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=5, borderaxespad=0)
    return figure


@as_png
def parameters(records: Sequence[Record]) -> Figure:
    """Draw the accuracy over each parameter that was varied; the best trial is circled.

    Args:
        records: the trials of one sweep, some of them with an accuracy.
    """
    shown = [record for record in records if record.value is not None]
    names = sorted({name for record in shown for name in record.parameters})[:MOST_PARAMETERS]
    rows = -(-len(names) // 2)
    complete = [record for record in shown if record.state == COMPLETE]
    best = max(complete, key=lambda record: record.value or 0, default=None)
    figure = new_figure(100 + 255 * max(rows, 1), "Accuracy by parameter", _subtitle(best))
    for position, name in enumerate(names):
        left, top = 75 + position % 2 * 420, 110 + position // 2 * 255
        write(figure, left, top, name.replace("_", " "), fontweight="bold")
        axes = add_axes(figure, left, top + 15, 330, 165)
        _parameter(axes, name, shown, best)
    return figure


def of_sweeps(records: Sequence[Record]) -> dict[str, bytes]:
    """Return the plots of every sweep among the records, by title."""
    plots = {}
    for sweep in sorted({record.sweep for record in records}):
        members = [record for record in records if record.sweep == sweep]
        plots[f"{sweep}: trials"] = progress(members)
        if any(record.value is not None for record in members):
            plots[f"{sweep}: parameters"] = parameters(members)
    return plots


def _subtitle(best: Record | None) -> str:
    if best is None or best.value is None:
        return "no trial is complete"
    return f"circled: {best.trial}, {percent(best.value, 2)} · pale: stopped early, after fewer epochs"


def _states(axes: Axes, numbers: Sequence[int], records: Sequence[Record], low: float) -> None:
    """Mark every trial by its state; what lies below the axis, or has no accuracy, is marked on its edge."""
    marks: Mapping[str, Mapping[str, Any]] = {
        COMPLETE: {"marker": "o", "color": BLUE},
        PRUNED: {"marker": "v", "color": MUTED, "alpha": 0.6},
        FAILED: {"marker": "x", "color": RED},
    }
    for state, style in marks.items():
        positions = [position for position, record in enumerate(records) if record.state == state]
        if positions:
            across = [numbers[position] for position in positions]
            up = [max(records[position].value or 0, low) for position in positions]
            label = {PRUNED: "stopped early", FAILED: "failed"}.get(state, state)
            axes.scatter(across, up, s=30, label=label, zorder=3, clip_on=False, **style)


def _accuracy_axis(axes: Axes, records: Sequence[Record]) -> float:
    """Let the complete trials have the room, and return where the axis begins."""
    complete = [record.value for record in records if record.state == COMPLETE and record.value is not None]
    values = complete or [record.value for record in records if record.value is not None] or [0, 1]
    low, high = min(values), max(values)
    room = max(high - low, 0.005)
    bottom = max(0, low - 0.25 * room)
    axes.set_ylim(bottom, min(1 + 0.02 * room, high + 0.1 * room))
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="y")
    return bottom


def _parameter(axes: Axes, name: str, records: Sequence[Record], best: Record | None) -> None:
    positions, low = _positions(axes, name, records), _accuracy_axis(axes, records)
    for record, position in zip(records, positions, strict=True):
        complete, value = record.state == COMPLETE, max(record.value or 0, low)
        style: dict[str, Any] = {"color": BLUE, "alpha": 0.9} if complete else {"color": MUTED, "alpha": 0.35}
        axes.plot(position, value, "o" if complete else "v", markersize=5, clip_on=False, **style)
        if record is best:
            axes.plot(position, value, "o", color=RED, fillstyle="none", markersize=12, clip_on=False)


def _positions(axes: Axes, name: str, records: Sequence[Record]) -> list[float]:
    """Return where each record's value of a parameter lies, and label the axis."""
    values = [record.parameters.get(name) for record in records]
    numbers = [float(one) for one in values if isinstance(one, (int, float)) and not isinstance(one, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > _FEW:
        if _is_logarithmic(numbers):
            axes.set_xscale("log")
            _plain_ticks(axes, min(numbers), max(numbers))
        return numbers
    texts = [json.dumps(value).strip('"') for value in values]
    known = sorted(set(texts), key=lambda text: (len(text), text))
    if len(numbers) == len(values):
        known.sort(key=float)
    axes.set_xticks(range(len(known)), [text.replace(", ", " ").strip("[]") for text in known], fontsize=8)
    axes.set_xlim(-0.5, len(known) - 0.5)
    return [float(known.index(text)) for text in texts]


def _is_logarithmic(numbers: Sequence[float]) -> bool:
    """Say whether most of the numbers would be crowded at the lower end of an even axis."""
    low, high = min(numbers), max(numbers)
    return low > 0 and float(np.median(numbers)) - low < 0.25 * (high - low)


def _plain_ticks(axes: Axes, low: float, high: float) -> None:
    """Name a handful of round numbers on a logarithmic axis."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(exponents) > 3 else (1, 2, 5)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(inside or [low, high], [f"{tick:g}" for tick in inside or [low, high]])
    axes.minorticks_off()
