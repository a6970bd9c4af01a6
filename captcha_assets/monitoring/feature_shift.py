"""Whether the network's features distinguish served images from validation images, and which are unusual.

Features are the inputs of the network's last layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.covariance import ledoit_wolf

Array = NDArray[np.float64]

#: Permutations move groups of rows, about so many in all: as exact as single rows, and much faster.
_GROUPS = 1000
_DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class Discrimination:
    """How well a linear classifier distinguishes two samples.

    Attributes:
        auc: probability that it gives the higher score to the served one of two images, 0.5 to 1; what chance
            adds is subtracted.
        p_value: probability of at least such a difference between two samples of one distribution.
    """

    auc: float
    p_value: float


def discriminate(
    reference: Array, sample: Array, draws: int, rng: np.random.Generator, design_effect: float = 1.0
) -> Discrimination:
    """Test whether two samples have one distribution, by a linear discriminant and permutation.

    The statistic is the squared distance of the two means in units of the pooled covariance, which a linear
    discriminant maximizes. The covariance (Ledoit and Wolf's) does not know which sample a row is of, so
    a permutation changes nothing but the means: a matrix product gives all of them.

    D. Lopez-Paz, M. Oquab (2017): Revisiting classifier two-sample tests. ICLR. I. Kim, A. Ramdas, A. Singh,
    L. Wasserman (2021): Classification accuracy as a proxy for two-sample testing. Annals of Statistics 49.

    Args:
        reference: features of the reference (m, d).
        sample: features of the sample (n, d).
        draws: number of permutations.
        rng: draws the permutations.
        design_effect: so many images of the sample have the information of one independent image;
            permutations draw that many fewer.
    """
    size = -(-(len(sample) + len(reference)) // _GROUPS)
    n, m = len(sample) // size, len(reference) // size
    rows = _whitened(np.concatenate([sample[: n * size], reference[: m * size]]))
    groups = rows.reshape(n + m, size, -1).mean(axis=1)
    independent = max(1, round(n / design_effect))
    of_reference = np.full(m, -1 / m)
    drawn = np.concatenate([np.full(independent, 1 / independent), np.zeros(n - independent), of_reference])
    found = _squared_length(np.concatenate([np.full(n, 1 / n), of_reference])[None], groups)[0]
    chance = _permuted(drawn, groups, draws, rng)
    p_value = (1 + np.count_nonzero(chance >= found * (1 - 1e-6))) / (1 + draws)
    return Discrimination(_auc(found - chance.mean(), n / (n + m)), float(p_value))


def _whitened(rows: Array) -> NDArray[np.float32]:
    """Return rows whose covariance is about the identity."""
    centred = rows - rows.mean(axis=0)
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > 1e-9 * max(variances.max(), 1e-300)
    return (centred @ (directions[:, kept] / np.sqrt(variances[kept]))).astype(np.float32)


def _squared_length(weights: Array, rows: NDArray[np.float32]) -> Array:
    return np.square(weights.astype(np.float32) @ rows).sum(axis=1).astype(np.float64)


def _permuted(weights: Array, rows: NDArray[np.float32], draws: int, rng: np.random.Generator) -> Array:
    found = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, draws - start)
        shuffled = rng.permuted(np.tile(weights.astype(np.float32), (count, 1)), axis=1)
        found.append(_squared_length(shuffled, rows))
    return np.concatenate(found)


def _auc(squared: float, share: float) -> float:
    """Return the AUC of two normal distributions whose means are so far apart in the pooled covariance."""
    between = share * (1 - share) * max(squared, 0.0)  # the pooled covariance holds the distance itself
    within = max(squared, 0.0) / max(1 - between, 1e-3)
    return float(ndtr(np.sqrt(within / 2)))


@dataclass(frozen=True)
class ClassFeatures:
    """What the features of each class are like in the reference.

    Attributes:
        means: (classes, d); of a class without images, the mean of all.
        directions: (d, k); features times these have unit variance within the classes.
    """

    means: Array
    directions: Array

    @classmethod
    def of(cls, features: Array, labels: NDArray[np.int64], classes: int) -> "ClassFeatures":
        """Describe the features (n, d) of images whose classes are known."""
        members = labels[:, None] == np.arange(classes)
        counts = members.sum(axis=0)[:, None]
        means = np.where(counts > 0, members.T @ features / np.maximum(counts, 1), features.mean(axis=0))
        covariance, _ = ledoit_wolf(features - means[labels], assume_centered=True)
        variances, directions = np.linalg.eigh(covariance)
        kept = variances > 1e-9 * max(variances.max(), 1e-300)
        return cls(means, directions[:, kept] / np.sqrt(variances[kept]))

    def distances(self, features: Array, predicted: NDArray[np.int64]) -> Array:
        """Return how far images are from the mean of their predicted class, in standard deviations.

        1 is usual. K. Lee, K. Lee, H. Lee, J. Shin (2018): A simple unified framework for detecting
        out-of-distribution samples and adversarial attacks. NeurIPS.
        """
        scaled = (features - self.means[predicted]) @ self.directions
        return np.sqrt(np.square(scaled).mean(axis=1))
