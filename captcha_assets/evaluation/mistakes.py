"""The images a model reads wrongly, worst first: most sure of the wrong class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Mistake:
    """One image (uint8, gray or RGB) taken for another class, with the probability of that class."""

    image_id: str
    label: str
    predicted: str
    probability: float
    batch: str
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Confusion:
    """How many images of `label` were taken for `predicted`, out of `support`."""

    label: str
    predicted: str
    count: int
    support: int


def most_confused(
    confusion: npt.NDArray[np.int64], classes: Sequence[str], limit: int = 10
) -> list[Confusion]:
    """Return the most frequent mistakes, (true, predicted) pairs of a (C, C) confusion matrix.

    Pairs of equal count keep the order of the classes; pairs that never happened are left out.
    """
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[: min(limit, int((off > 0).sum()))]
    rows, columns = np.unravel_index(order, off.shape)
    return [
        Confusion(classes[i], classes[j], int(off[i, j]), int(confusion[i].sum()))
        for i, j in zip(rows, columns, strict=True)
    ]
