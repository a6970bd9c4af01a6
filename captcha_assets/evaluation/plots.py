"""Plots of an evaluation. Each function returns a PNG, `canvas.WIDTH` pixels wide."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from captcha_assets.evaluation.formatting import counted, percent
from captcha_assets.evaluation.metrics import CalibrationBin, ClassMetrics, Metrics
from captcha_assets.evaluation.mistakes import Mistake
from captcha_assets.evaluation.plot_style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    PALE_BLUE,
    PALE_RED,
    RED,
    WIDTH,
    add_axes,
    as_png,
    new_figure,
    write,
)

#: Mistakes that the gallery shows at most.
GALLERY_LIMIT = 40

_WARM = LinearSegmentedColormap.from_list("warm", ["#fdeae0", "#f4a582", "#c8442f", "#7d1a1a"])
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")
_COUNT = FuncFormatter(lambda count, _: f"{count:,.0f}")


@as_png
def confusion_matrix(metrics: Metrics) -> Figure:
    """Draw the confusion matrix: counts, coloured by their share of the true class; mistakes stand out."""
    count = len(metrics.classes)
    left = _label_space(metrics.classes)
    side = min(WIDTH - 95 - left, 60 * count)
    turned = 90 if _label_space(metrics.classes, 0) > side / count else 0
    down = 120 if not turned else 75 + left
    support = metrics.confusion.sum(axis=1)
    shares = metrics.confusion / np.maximum(support, 1)[:, None]
    np.fill_diagonal(shares, 0)
    # Of a class with few images, one mistake would look like a disaster on a scale of its own.
    top = max(0.05, float(shares.max()))
    mistakes = metrics.n - int(np.trace(metrics.confusion))
    figure = new_figure(
        down + side + 100,
        "Confusion matrix",
        f"{counted(metrics.n, 'test image')}, {counted(mistakes, 'mistake')}: rows are true classes,"
        " columns what they were taken for",
    )
    axes = add_axes(figure, left, down, side, side)
    axes.imshow(_confusion_colours(shares / top), interpolation="nearest", aspect="auto")
    _confusion_counts(axes, metrics.confusion, shares / top, side / count)
    _confusion_frame(axes, metrics, side / count, turned)
    _colour_scale(figure, top, left, down + side + 45)
    return figure


@as_png
def per_class(metrics: Metrics) -> Figure:
    """Draw recall with its 95 % interval and F1 of each class, the weakest first."""
    tested = [entry for entry in metrics.per_class if entry.support]
    tested.sort(key=lambda entry: (entry.recall, entry.f1, entry.name))
    missing = f" · no test images of {', '.join(metrics.missing)}" if metrics.missing else ""
    height = 26 * len(tested)
    figure = new_figure(
        height + 175, "Classes, the weakest first", f"recall with its 95 % interval, and F1{missing}"
    )
    left = _label_space(metrics.classes)
    axes = add_axes(figure, left, 110, WIDTH - 250 - left, height)
    _class_marks(axes, tested, metrics.macro_f1)
    _class_figures(axes, tested)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -30 / height), ncols=4, borderaxespad=0, handlelength=1.6
    )
    return figure


@as_png
def reliability(metrics: Metrics) -> Figure:
    """Draw how often the model is right when it is how sure, and how often it is how sure."""
    figure = new_figure(
        700,
        "Calibration",
        f"expected calibration error {metrics.ece:.3f} · negative log-likelihood {metrics.nll:.3f}"
        f" · Brier score {metrics.brier:.3f}",
    )
    filled = [entry for entry in metrics.calibration if entry.n]
    _reliability_bars(add_axes(figure, 85, 115, WIDTH - 125, 370), filled)
    _confidence_histogram(add_axes(figure, 85, 510, WIDTH - 125, 125), filled)
    return figure


@as_png
def gallery(mistakes: Sequence[Mistake], tested: int) -> Figure:
    """Draw the first `GALLERY_LIMIT` mistakes, enlarged, with what was taken for what and how surely.

    Args:
        mistakes: all of them, the worst first.
        tested: how many images were tested.
    """
    if not mistakes:
        return _no_mistake(tested)
    shown = mistakes[:GALLERY_LIMIT]
    columns, width, height = 8, 100, 198
    which = "All mistakes" if len(shown) == len(mistakes) else "The worst mistakes"
    figure = new_figure(
        -(-len(shown) // columns) * height + 95,
        which,
        f"{len(shown)} of {counted(len(mistakes), 'mistake')} in {counted(tested, 'test image')},"
        " the surest first: true → predicted, probability, image id",
    )
    for position, mistake in enumerate(shown):
        _mistake(figure, mistake, 30 + position % columns * width, 88 + position // columns * height)
    return figure


@as_png
def training_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss and accuracy over the epochs.

    Args:
        history: one entry an epoch: "epoch" and any of "train_loss", "validation_loss",
            "train_accuracy", "validation_accuracy"; what is absent is left out.
    """
    figure = new_figure(420, "Training", counted(len(history), "epoch"))
    for left, name in ((75, "loss"), (495, "accuracy")):
        write(figure, left, 105, name, fontweight="bold")
        axes = add_axes(figure, left, 120, 330, 235)
        _curve(axes, history, f"train_{name}", "training", MUTED)
        _curve(axes, history, f"validation_{name}", "validation", BLUE)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="y")
        if axes.lines:
            axes.legend()
        if name == "accuracy":
            axes.yaxis.set_major_formatter(_PERCENT)
    return figure


def _label_space(classes: Sequence[str], least: float = 75) -> float:
    """Return the pixels that the longest name takes, the figure's margin with it."""
    return max(least, 15 + 9 * max(map(len, classes)))


def _confusion_colours(weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    colours = np.array(_WARM(weight))
    colours[weight == 0] = 1
    colours[np.diag_indices(len(weight))] = to_rgba(PALE_BLUE)
    return colours


def _confusion_counts(
    axes: Axes, confusion: npt.NDArray[np.int64], weight: npt.NDArray[np.float64], cell: float
) -> None:
    if cell < 18:
        return
    size = 8 if cell < 45 else 10
    for row, column in np.argwhere(confusion):
        mistake = row != column
        colour = "white" if weight[row, column] > 0.55 else INK if mistake else "#4d6f91"
        axes.text(
            column,
            row,
            f"{confusion[row, column]}",
            ha="center",
            va="center_baseline",
            fontsize=size,
            color=colour,
            fontweight="bold" if mistake else "normal",
        )


def _confusion_frame(axes: Axes, metrics: Metrics, cell: float, turned: float) -> None:
    count = len(metrics.classes)
    axes.set_xticks(range(count), metrics.classes, color=INK, fontsize=10, rotation=turned)
    axes.set_yticks(range(count), metrics.classes, color=INK, fontsize=10)
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", linewidth=0.8)
    axes.spines[:].set_visible(False)
    if cell < 13:
        return
    axes.text(count - 0.2, -0.75, "recall", color=MUTED, fontsize=9)
    for row, entry in enumerate(metrics.per_class):
        text = "no images" if entry.recall is None else percent(entry.recall)
        axes.text(count - 0.2, row, text, va="center_baseline", color=MUTED, fontsize=9)


def _colour_scale(figure: Figure, top: float, left: float, down: float) -> None:
    """Add the legend of the mistakes' colours, from none to the share `top` of a true class."""
    axes = add_axes(figure, left, down, 220, 12)
    axes.imshow(_WARM(np.linspace(0, 1, 220))[None], aspect="auto", extent=(0, top, 0, 1))
    axes.set_xticks([0, top / 2, top])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.text(top * 1.06, 0.5, "mistakes as a share of the true class", va="center_baseline", color=MUTED)


def _class_marks(axes: Axes, tested: Sequence[ClassMetrics], macro_f1: float) -> None:
    rows = np.arange(len(tested))
    low, recall, high, f1 = np.array(
        [(entry.recall_low, entry.recall, entry.recall_high, entry.f1) for entry in tested], np.float64
    ).T
    axes.hlines(rows, low, high, color=PALE_BLUE, linewidth=10, label="95 % interval", zorder=1)
    axes.plot(recall, rows, "o", color=BLUE, markersize=7, label="recall", zorder=3, clip_on=False)
    axes.plot(
        f1, rows, "D", color=RED, markersize=4.5, markeredgecolor="white", label="F1", zorder=4, clip_on=False
    )
    axes.axvline(
        macro_f1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=f"macro F1 {macro_f1:.3f}", zorder=0
    )
    axes.set_yticks(rows, [entry.name for entry in tested], color=INK, fontsize=10)
    axes.set_ylim(len(tested) - 0.5, -0.5)
    least = float(min(low.min(), f1.min()))
    axes.set_xlim(max(0, least - 0.05 * (1 - least)) - 0.005, 1.005)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)


def _class_figures(axes: Axes, tested: Sequence[ClassMetrics]) -> None:
    """Write the figures beside the rows, in columns."""
    width = axes.get_window_extent().width
    columns = ((1 + 70 / width, "recall"), (1 + 145 / width, "F1"), (1 + 225 / width, "images"))
    transform = axes.get_yaxis_transform()
    for position, name in columns:
        axes.text(position, -0.8, name, transform=transform, ha="right", color=MUTED, fontsize=9)
    for row, entry in enumerate(tested):
        texts = (percent(entry.recall or 0), f"{entry.f1:.3f}", f"{entry.support:,}")
        for (position, _), text in zip(columns, texts, strict=True):
            axes.text(position, row, text, transform=transform, ha="right", va="center_baseline")


def _reliability_bars(axes: Axes, filled: Sequence[CalibrationBin]) -> None:
    middles = [(entry.low + entry.high) / 2 for entry in filled]
    confidence = [entry.confidence or 0.0 for entry in filled]
    accuracy = [entry.accuracy or 0.0 for entry in filled]
    width = 0.92 * (filled[0].high - filled[0].low)
    bottom = np.minimum(confidence, accuracy)
    gap = np.abs(np.subtract(confidence, accuracy))
    axes.bar(middles, bottom, width, color=PALE_BLUE)
    axes.bar(middles, gap, width, bottom=bottom, color=PALE_RED, label="gap to the mean confidence")
    axes.hlines(
        accuracy, np.subtract(middles, width / 2), np.add(middles, width / 2), color=BLUE, linewidth=2.5,
        label="accuracy", clip_on=False,
    )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
    _unit_axis(axes)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.set_xticklabels([])
    axes.set_ylabel("share that is right")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=3, borderaxespad=0)


def _confidence_histogram(axes: Axes, filled: Sequence[CalibrationBin]) -> None:
    middles = [(entry.low + entry.high) / 2 for entry in filled]
    counts = [entry.n for entry in filled]
    width = 0.92 * (filled[0].high - filled[0].low)
    axes.bar(middles, np.subtract(counts, 0.5), width, bottom=0.5, color=BLUE)
    for middle, count in zip(middles, counts, strict=True):
        axes.text(middle, count * 1.25, f"{count:,}", ha="center", fontsize=8, color=MUTED)
    _unit_axis(axes)
    # Most predictions are very sure: on a linear scale the others could not be seen.
    axes.set_yscale("log")
    axes.set_ylim(0.5, 5 * max(counts))
    axes.yaxis.set_major_formatter(_COUNT)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("images (log)")
    axes.set_xlabel("confidence: the probability of the predicted class")


def _unit_axis(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="y")


def _no_mistake(tested: int) -> Figure:
    figure = new_figure(220, "No mistakes", f"{counted(tested, 'test image')}, all of them read correctly")
    axes = add_axes(figure, 30, 90, WIDTH - 60, 100)
    axes.set_facecolor("#eef6ee")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.text(0.5, 0.5, "✔  Nothing to show here.", fontsize=13, ha="center", va="center", color="#2f7d4f")
    return figure


def _mistake(figure: Figure, mistake: Mistake, left: float, top: float) -> None:
    rows, columns = mistake.pixels.shape[:2]
    height = 130
    width = min(92.0, height * columns / rows)
    axes = add_axes(figure, left + (100 - width) / 2, top, width, height)
    axes.imshow(mistake.pixels, cmap="gray", vmin=0, vmax=255, aspect="auto", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=GRID)
    middle = left + 50
    words = f"{mistake.label} → {mistake.predicted}"
    write(figure, middle, top + height + 18, words, ha="center", fontsize=11, fontweight="bold")
    write(
        figure, middle, top + height + 33, percent(mistake.probability), ha="center", fontsize=8.5, color=RED
    )
    style = {"ha": "center", "fontsize": 7.5, "color": MUTED, "family": "DejaVu Sans Mono"}
    write(figure, middle, top + height + 47, mistake.image_id[:10], **style)


def _curve(axes: Axes, history: Sequence[Mapping[str, float]], name: str, label: str, colour: str) -> None:
    points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
    if not points:
        return
    epochs, values = zip(*points, strict=True)
    axes.plot(
        epochs,
        values,
        "o-" if len(points) <= 30 else "-",
        color=colour,
        linewidth=2,
        markersize=4,
        label=f"{label} {values[-1]:.3f}",
    )
