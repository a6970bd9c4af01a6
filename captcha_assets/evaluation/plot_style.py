"""Figures laid out in pixels, in one style, that become the same PNG bytes for the same content.

Nothing here uses pyplot or keeps state: each plot is a `Figure` of its own.
"""

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Width of every plot, in pixels: Dagster's UI shows an image in its own size.
WIDTH = 860

INK = "#1f2933"
MUTED = "#66727f"
GRID = "#e5eaef"
BLUE = "#2a6fb0"
PALE_BLUE = "#cfe0f1"
RED = "#c8442f"
PALE_RED = "#f4cfc4"

_DPI = 100
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#c9d1d9",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": GRID,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": 9,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.labelsize": 9,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}

Parameters = ParamSpec("Parameters")


def as_png(draw: Callable[Parameters, Figure]) -> Callable[Parameters, bytes]:
    """Turn a function that draws a figure into one that returns it as PNG."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> bytes:
        buffer = io.BytesIO()
        with rc_context(_STYLE):
            # matplotlib would write its version into the file, and change the bytes with it.
            draw(*args, **kwargs).savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()

    return drawn


def new_figure(height: float, title: str, subtitle: str) -> Figure:
    """Return a figure, `WIDTH` x `height` pixels, whose first 80 pixels are its title's."""
    figure = Figure(figsize=(WIDTH / _DPI, height / _DPI), dpi=_DPI)
    write(figure, 30, 36, title, fontsize=14, fontweight="bold")
    write(figure, 30, 60, subtitle, color=MUTED)
    return figure


def write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Write `text` with its baseline at `top`, in pixels from the upper left corner."""
    figure.text(left / WIDTH, 1 - top / _height(figure), text, **style)


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes whose place is given in pixels from the upper left corner."""
    total = _height(figure)
    return figure.add_axes((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total))


def _height(figure: Figure) -> float:
    return figure.get_figheight() * _DPI
