"""Near-duplicates: the same picture shifted by a pixel, brightened, re-encoded, resized and back.

Whether two images are near-duplicates depends on these two alone, never on what else there is, so a
pair found once holds for good. Comparing pixels for all pairs would be far too slow, so there are
three steps, each a stricter condition on fewer pairs: the magnitudes of the signatures, which a shift
leaves as they are; the signatures at nine shifts; the pixels at nine shifts.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from captcha_assets.images.features import BORDER, SIGNATURE_SIZE, SIGNATURE_VERSION, frequencies

#: Correlation from which two images of one class count as one picture. On 4,265 real characters distinct
#: images reach 0.988 and copies (shift, brightness, JPEG, noise, resize and back) stay above 0.9945.
NEAR_DUPLICATE_CORRELATION = 0.992

#: What the signatures of copies have in common at least. On real characters, copies that correlate at
#: 0.992 stay above 0.9848 at the best shift and 0.9914 in magnitude; three and four pairs in a thousand
#: of distinct images pass the second of these, three in ten thousand the first.
SIGNATURE_CORRELATION = 0.980
MAGNITUDE_CORRELATION = 0.988

#: Pairs found by another rule are not comparable; whoever keeps pairs keeps this beside them.
RULE = f"{SIGNATURE_VERSION}/{MAGNITUDE_CORRELATION}/{SIGNATURE_CORRELATION}/{NEAR_DUPLICATE_CORRELATION}"

Signatures = npt.NDArray[np.float32]
Pairs = npt.NDArray[np.int64]

_SHIFTS = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
_BLOCK = 2048  # rows compared at once: products of 2048 by 2048 stay in the processor's cache
_PAIR_BLOCK = 4096


def signature_matrix(column: npt.NDArray[np.float16]) -> Signatures:
    """Return signatures (n, 76) as float32, for calculating."""
    return column.reshape(-1, SIGNATURE_SIZE).astype(np.float32)


def candidate_pairs(signatures: Signatures, fresh: npt.NDArray[np.bool_]) -> Pairs:
    """Return the pairs of rows that may be near-duplicates.

    Args:
        signatures: float32 (n, 76), of images of one class.
        fresh: pairs of two rows that are not fresh are left out.

    Returns:
        int64 (m, 2), the smaller row first, in order.
    """
    half = SIGNATURE_SIZE // 2
    magnitudes = np.hypot(signatures[:, :half], signatures[:, half:])
    close = (
        pairs[_best_shift(signatures, pairs) >= SIGNATURE_CORRELATION] for pairs in _alike(magnitudes, fresh)
    )
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *close])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _alike(magnitudes: Signatures, fresh: npt.NDArray[np.bool_]) -> Iterator[Pairs]:
    """Yield pairs whose magnitudes correlate, block by block."""
    new = np.flatnonzero(fresh)
    for start in range(0, len(new), _BLOCK):
        rows = new[start : start + _BLOCK]
        for other in range(0, len(magnitudes), _BLOCK):
            products = magnitudes[rows] @ magnitudes[other : other + _BLOCK].T
            first, second = np.nonzero(products >= MAGNITUDE_CORRELATION)
            first, second = rows[first], second + other
            # a pair of two fresh rows is met twice, a row with itself once
            keep = (first < second) | (~fresh[second])
            pairs = np.stack([first[keep], second[keep]], axis=1)
            yield np.sort(pairs, axis=1)


def _turns() -> npt.NDArray[np.complex64]:
    """Return (76 / 2, 9): what each of nine shifts does to the phases of a signature."""
    down, across = frequencies()
    shifts = np.array(_SHIFTS).T
    turns = np.outer(down, shifts[0]) + np.outer(across, shifts[1])
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def _best_shift(signatures: Signatures, pairs: Pairs) -> npt.NDArray[np.float32]:
    """Return the correlation of each pair's signatures at the best of nine shifts."""
    half = SIGNATURE_SIZE // 2
    spectra = signatures[:, :half] + 1j * signatures[:, half:]
    turns = _turns()
    best = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _PAIR_BLOCK):
        first, second = pairs[start : start + _PAIR_BLOCK].T
        best[start : start + _PAIR_BLOCK] = ((spectra[first] * spectra[second].conj()) @ turns).real.max(
            axis=1
        )
    return best


def correlations(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return how well each image of `first` agrees with its partner at the best of nine shifts.

    Args:
        first: uint8 (n, 52, 32).
        second: uint8 (n, 52, 32), the partners.

    Returns:
        float64 (n,): correlation of the first's interior (28 by 48) with the partner's, shifted by up
        to one pixel in each direction. The sums are exact.
    """
    interior = _flat(first, 0, 0)
    best = np.full(len(first), -1.0)
    for down, across in _SHIFTS:
        np.maximum(best, _correlation(interior, _flat(second, down, across)), out=best)
    return best


def _flat(images: npt.NDArray[np.uint8], down: int, across: int) -> npt.NDArray[np.float64]:
    _, height, width = images.shape
    rows = slice(BORDER + down, height - BORDER + down)
    columns = slice(BORDER + across, width - BORDER + across)
    return images[:, rows, columns].reshape(len(images), -1).astype(np.float64)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    count = a.shape[1]
    sum_a, sum_b = a.sum(axis=1), b.sum(axis=1)
    spread_a = count * np.einsum("ij,ij->i", a, a) - sum_a * sum_a
    spread_b = count * np.einsum("ij,ij->i", b, b) - sum_b * sum_b
    common = count * np.einsum("ij,ij->i", a, b) - sum_a * sum_b
    scale = np.sqrt(spread_a * spread_b)
    return np.divide(common, scale, out=np.zeros_like(common), where=scale > 0)


def components(count: int, pairs: Pairs) -> npt.NDArray[np.int64]:
    """Return for each of `count` rows the smallest row that it is tied to by pairs, directly or not."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - half a second that most users of this room don't need
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    if len(pairs) == 0:
        return np.arange(count)
    weights = np.ones(len(pairs), np.int8)
    graph = coo_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    _, component = connected_components(graph, directed=False)
    _, smallest = np.unique(component, return_index=True)
    return smallest[component].astype(np.int64)
