"""What the prediction log says of a model in a period: how many images it read wrong, and how they look.

Images are counted, not predictions: the same bytes sent again get the same answer, and are one observation.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from captcha_assets.served_predictions import daily_tables
from captcha_assets.serving.prediction_log_tables import (
    STATISTICS,
    corrections,
    predictions,
    with_latest_correction,
)

#: So many images are drawn to see what they look like.
MAX_IMAGES = 5_000


@dataclass(frozen=True)
class ServedPeriod:
    """A model, and a period in which it served: from `begin` up to, not including, `end`."""

    model_id: str
    begin: datetime
    end: datetime


@dataclass(frozen=True)
class ImageErrors:
    """The distinct images of a period.

    Attributes:
        images: number of them.
        answered: those that a person gave a label, the predicted one or another.
        wrong: those that a person gave another label than the predicted one.
    """

    images: int
    answered: int
    wrong: int


def image_errors(url: str, period: ServedPeriod) -> ImageErrors:
    """Count the images of a period, whenever they were corrected.

    Args:
        url: address of the log.
        period: the model and its period.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    if not daily_tables.exists(url):
        return ImageErrors(0, 0, 0)
    image = predictions.c.image_hash
    answered = sa.case((corrections.c.id.is_not(None), image))
    wrong = sa.case((corrections.c.label != predictions.c.label, image))
    query = (
        sa.select(*(sa.func.count(one.distinct()) for one in (image, answered, wrong)))
        .select_from(with_latest_correction())
        .where(*_within(period))
    )
    with daily_tables.connected(url) as connection:
        return ImageErrors(*map(int, connection.execute(query).one()))


def image_statistics(url: str, period: ServedPeriod) -> NDArray[np.float64]:
    """Return `STATISTICS` of a random sample of the images of a period: a row each, a column each.

    Args:
        url: address of the log.
        period: the model and its period.

    Raises:
        PredictionLogUnavailableError: the database cannot be read.
    """
    columns = [predictions.c[name] for name in STATISTICS]
    # The order of hashes is random, and the same for the same images.
    query = sa.select(*columns).where(*_within(period)).order_by(predictions.c.image_hash).limit(MAX_IMAGES)
    with daily_tables.connected(url) as connection:
        rows = [tuple(row) for row in connection.execute(query)]
    return np.array(rows, np.float64).reshape(-1, len(STATISTICS))


def _within(period: ServedPeriod) -> tuple[sa.ColumnElement[bool], ...]:
    time = predictions.c.time
    return predictions.c.model_version == period.model_id, time >= period.begin, time < period.end
