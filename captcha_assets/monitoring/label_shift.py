"""Which classes the images belong to, as far as the predictions imply it (black-box shift estimation).

If only the frequencies of the classes change, and each class looks as before, the model mistakes each class
for others as often as it does on the validation split. The confusion matrix then says which frequencies
of the classes lead to the predictions that were seen.

Z. Lipton, Y.-X. Wang, A. Smola (2018): Detecting and correcting for label shift with black box predictors.
ICML.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Array:
    """Return the share of each class (columns) that is predicted as each class (rows).

    A class without images is taken to be predicted correctly.
    """
    counts = np.zeros((classes, classes))
    np.add.at(counts, (predicted, labels), 1)
    images = counts.sum(axis=0)
    return np.where(images > 0, counts / np.maximum(images, 1), np.eye(classes))


def implied_shares(confusion: Array, predicted: Array) -> Array:
    """Return the shares of the classes that lead to shares of predictions.

    Args:
        confusion: what `confusion_matrix` returns.
        predicted: the share of the predictions that each class has.

    Returns:
        Shares that are not negative and sum to 1, those that fit best (least squares).
    """
    # The last row holds the sum at 1; its weight makes it exact for all purposes.
    weight = 1e3
    rows = np.vstack([confusion, np.full((1, confusion.shape[1]), weight)])
    found, _ = nnls(rows, np.append(predicted, weight))
    return np.asarray(found / found.sum())


def total_variation(one: Array, other: Array) -> float:
    """Return the share of the images that would have to change their class."""
    return float(np.abs(one - other).sum() / 2)
