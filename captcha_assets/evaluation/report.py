"""The evaluation as one page of HTML that needs nothing beside it: styles and plots are inside."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

from captcha_assets.confidence_intervals import best_of
from captcha_assets.evaluation.formatting import percent
from captcha_assets.evaluation.limits import limits
from captcha_assets.evaluation.metrics import BatchMetrics, Metrics
from captcha_assets.evaluation.mistakes import Mistake, most_confused
from captcha_assets.html_templates import environment

#: Mistakes that the page shows at most.
SHOWN_MISTAKES = 200


def render(
    *,
    model_id: str,
    split: str,
    metrics: Metrics,
    plot_images: Mapping[str, bytes],
    mistakes: Sequence[Mistake],
    batches: Sequence[BatchMetrics],
    facts: Mapping[str, Mapping[str, Any]],
    shape: Sequence[int],
    batch_link: str | None = None,
    data_report: str | None = None,
    compared: int = 1,
) -> str:
    """Return the report as HTML.

    Args:
        model_id: the model that was measured.
        split: the split it was measured on.
        metrics: its figures.
        plot_images: PNGs by name: confusion_matrix, calibration and, if there is one, training_curves.
        mistakes: all of them, the worst first; the page shows `SHOWN_MISTAKES`.
        batches: the batches that the images came from.
        facts: what else there is to know about the model: heading, name, value.
        shape: of an image: height, width and, of an RGB image, 3.
        batch_link: address of a batch's own page, `{batch}` in the place of its name, relative to
            the report; without it a batch's name leads nowhere.
        data_report: that of the data report.
        compared: how many models were compared on these images, this one included: it widens the interval.
    """
    tested = [entry for entry in metrics.per_class if entry.support]
    return (
        environment(Path(__file__).parent)
        .get_template("report.html.jinja")
        .render(
            model_id=model_id,
            split=split,
            metrics=metrics,
            plot_images=plot_images,
            mistakes=mistakes,
            shown=mistakes[:SHOWN_MISTAKES],
            confusions=most_confused(metrics.confusion, metrics.classes),
            batches=batches,
            batch_link=batch_link,
            data_report=data_report,
            facts=facts,
            shape=shape,
            limits=limits(metrics, batches),
            compared=compared,
            selected=best_of(compared, round(metrics.accuracy * metrics.n), metrics.n),
            floor=_floor([metrics.accuracy_low]),
            weakest=min(tested, key=lambda entry: (entry.recall, entry.f1)),
            class_floor=_floor(entry.recall_low or 0 for entry in tested),
            batch_floor=_floor(batch.interval.low for batch in batches),
            percent=percent,
            position=_position,
            image=_image,
            plot=lambda name, alt: _plot(plot_images[name], alt),
        )
    )


def _floor(shares: Iterable[float]) -> float:
    """Return where a scale that ends at 1 begins: the tenth below the least share, 0.9 at most."""
    return min(0.9, math.floor(10 * min(shares)) / 10)


def _position(share: float, floor: float, from_the_right: bool = False) -> str:
    """Return the position of a share on a bar that runs from `floor` to 1, as a CSS length."""
    position = 100 * (share - floor) / (1 - floor)
    return f"{100 - position if from_the_right else position:.2f}%"


def _plot(png: bytes, alt: str) -> Markup:
    return Markup('<img class="plot" alt="{}" src="{}">').format(alt, _data_address(png))


def _image(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return _data_address(buffer.getvalue())


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
