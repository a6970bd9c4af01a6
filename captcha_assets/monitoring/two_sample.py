"""Two-sample statistics with p-values and effect sizes, and Holm's correction for many of them."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

#: Equal parts of the reference that the population stability index compares.
PSI_BINS = 10


def ks_distance(reference: Array, sample: Array) -> float:
    """Return the Kolmogorov-Smirnov distance: the largest difference of two cumulative distributions."""
    before, now = np.sort(reference), np.sort(sample)
    every = np.concatenate([before, now])
    steps = (np.searchsorted(one, every, side="right") / len(one) for one in (before, now))
    return float(np.abs(np.subtract(*steps)).max())


def ks_p_value(distance: float, size: float) -> float:
    """Return the p-value of a Kolmogorov-Smirnov distance of two samples.

    Args:
        distance: the largest difference of the two cumulative distributions.
        size: n m / (n + m) of two samples of n and m independent values; less where they depend on each
            other.
    """
    return float(np.clip(stats.kstwo.sf(distance, max(1, round(size))), 0, 1))


def cohens_h(share: float, reference: float) -> float:
    """Return Cohen's h, the difference of two shares after the arcsine transformation: 0.2 is small.

    J. Cohen (1988): Statistical power analysis for the behavioral sciences, chapter 6.
    """
    return float(2 * (np.arcsin(np.sqrt(share)) - np.arcsin(np.sqrt(reference))))


def share_p_value(counts: tuple[int, int], totals: tuple[int, int]) -> float:
    """Return Fisher's exact p-value of two counts, each out of a total."""
    table = [counts, (totals[0] - counts[0], totals[1] - counts[1])]
    return float(np.clip(stats.fisher_exact(table).pvalue, 0, 1))


def counts_p_value(reference: Array, counts: Array, draws: int, rng: np.random.Generator) -> float:
    """Return the p-value of Pearson's chi-squared statistic of two rows of counts, by permutation.

    Args:
        reference: how often each class occurs in the reference.
        counts: how often each occurs in the sample.
        draws: number of permutations.
        rng: draws the permutations.
    """
    total = (reference + counts).astype(np.int64)
    occurring = total > 0
    total, size = total[occurring], int(counts.sum())
    drawn = rng.multivariate_hypergeometric(total, size, size=draws, method="marginals")
    expected = size * total / total.sum()

    def squares(rows: NDArray[np.int64] | Array) -> Array:
        # The other row deviates by the same counts, with a factor that no permutation changes.
        return np.asarray(((rows - expected) ** 2 / expected).sum(axis=-1))

    # A permutation that gives the very same counts must count as one that is as extreme.
    found = squares(counts[occurring]) * (1 - 1e-12)
    return float((1 + np.count_nonzero(squares(drawn) >= found)) / (1 + draws))


def psi(reference: Array, sample: Array) -> float:
    """Return the population stability index over ten equal parts of the reference.

    It has no p-value, and grows as samples get smaller: it is shown because people know it.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, PSI_BINS + 1)[1:-1]))
    before, now = (
        (np.bincount(np.searchsorted(edges, one, side="right"), minlength=len(edges) + 1) + 0.5)
        / (len(one) + 0.5 * (len(edges) + 1))
        for one in (reference, sample)
    )
    return psi_of_shares(before, now)


def psi_of_shares(reference: NDArray[np.floating], sample: NDArray[np.floating]) -> float:
    """Return the population stability index of shares, none of them 0."""
    return float(((sample - reference) * np.log(sample / reference)).sum())


def holm(p_values: Array, weights: Array) -> Array:
    """Return p-values that are corrected for their number, by Holm's method with weights.

    Rejecting those of at most alpha rejects a true hypothesis with at most this probability, however the
    tests depend on each other. Equal weights give Holm's method.

    S. Holm (1979): A simple sequentially rejective multiple test procedure. Scandinavian Journal of
    Statistics 6, 65-70.

    Args:
        p_values: one of each test.
        weights: share of alpha that each test is given, above 0.
    """
    if len(p_values) == 0:
        return np.zeros(0)
    order = np.argsort(p_values / weights, kind="stable")
    remaining = np.cumsum(weights[order][::-1])[::-1]
    stepped = np.maximum.accumulate(p_values[order] * remaining / weights[order])
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
