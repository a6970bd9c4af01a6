"""Near-duplicates: the same picture shifted by a pixel, brightened, re-encoded, resized and back.

Whether two images are near-duplicates depends on these two alone, never on what else there is. Comparing
pixels for all pairs would be far too slow, so there are three conditions, each stricter on fewer pairs:
the magnitudes of the signatures, which a shift leaves as they are; the signatures at nine shifts; the
pixels at the best of these. Only groups are asked for, so pairs that are tied already are passed over:
a thousand copies of one picture cost no more than a thousand pictures.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from captcha_assets.images.features import BORDER, SIGNATURE_SIZE, SIGNATURE_VERSION, frequencies

#: Correlation of smoothed pixels from which two images of one class count as one picture. Copies (shift,
#: brightness, JPEG 50, noise of 10, resize and back) stay above 0.9985 on real and on generated
#: characters, resized to three quarters and back above 0.995. Of 24,000 pairs of distinct real images none
#: exceeds 0.978, of 16 million generated ones none 0.980.
NEAR_DUPLICATE_CORRELATION = 0.996

#: What the signatures of such copies have in common at least. Copies stay above 0.9823 at the best shift
#: and 0.9915 in magnitude; four in a thousand pairs of distinct real images of one class pass the second
#: of these bounds, four in ten thousand the first.
SIGNATURE_CORRELATION = 0.980
MAGNITUDE_CORRELATION = 0.988

#: Names the rule: groups found by another one are found anew.
RULE = f"{SIGNATURE_VERSION}/{MAGNITUDE_CORRELATION}/{SIGNATURE_CORRELATION}/{NEAR_DUPLICATE_CORRELATION}"

Pixels = npt.NDArray[np.uint8]
Signatures = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_HALF = SIGNATURE_SIZE // 2
_SHIFTS = [(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)]
_BLOCK = 1024  # rows compared at once; every pair of a block may be close, so a block bounds the memory
_PAIR_BLOCK = 2048


def near_duplicate_groups(
    signatures: npt.NDArray[np.float16],
    pixels_of: Callable[[Rows], Pixels],
    known: Rows | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Return for each image of one class the first row of its near-duplicate group.

    Args:
        signatures: float16 (n, 76), see `features.signatures`.
        pixels_of: gives the pixels (m, 52, 32) of rows; asked for few of them, a block at a time.
        known: for each row the first row of a group that is known already; default: none is known.
        fresh: rows that nobody has compared yet; pairs of other rows are left out. Default: all.

    Returns:
        int64 (n,), smallest row of each row's group; its own number where it is alone.
    """
    count = len(signatures)
    fresh = np.ones(count, bool) if fresh is None else fresh
    ties = _Ties(signatures.astype(np.float32), pixels_of, np.arange(count) if known is None else known)
    magnitudes = np.hypot(ties.signatures[:, :_HALF], ties.signatures[:, _HALF:])
    for rows, others in _blocks(fresh):
        close = magnitudes[rows] @ magnitudes[others].T >= MAGNITUDE_CORRELATION
        close &= ties.first[rows][:, None] != ties.first[others]
        one, other = np.nonzero(close)
        ties.examine(np.stack([rows[one], others[other]], axis=1))
    return ties.first


def _blocks(fresh: npt.NDArray[np.bool_]) -> Iterator[tuple[Rows, Rows]]:
    """Yield blocks of rows to compare: every pair with a fresh row in it is in one of them."""
    new, old = np.flatnonzero(fresh), np.flatnonzero(~fresh)
    for start in range(0, len(new), _BLOCK):
        rows = new[start : start + _BLOCK]
        for others in (new[start:], old):
            for begin in range(0, len(others), _BLOCK):
                yield rows, others[begin : begin + _BLOCK]


class _Ties:
    """Which rows of one class belong together, as far as is known."""

    def __init__(self, signatures: Signatures, pixels_of: Callable[[Rows], Pixels], first: Rows) -> None:
        self.signatures = signatures
        self.first = first
        self._spectra = signatures[:, :_HALF] + 1j * signatures[:, _HALF:]
        self._pixels_of = pixels_of
        self._turns = _turns()

    def examine(self, pairs: Rows) -> None:
        """Tie those of the pairs (m, 2) together that are near-duplicates.

        A few pairs of every group are tried first: those that they tie need not be tried.
        """
        few = 1
        while len(pairs):
            now = np.minimum(*(_rank(self.first[side]) for side in pairs.T)) < few
            tried = pairs[now]
            blocks = [tried[start : start + _PAIR_BLOCK] for start in range(0, len(tried), _PAIR_BLOCK)]
            self._tie(np.concatenate([block[self._same(block)] for block in blocks]))
            pairs = pairs[~now]
            pairs = pairs[self.first[pairs[:, 0]] != self.first[pairs[:, 1]]]
            few *= 4

    def _same(self, pairs: Rows) -> npt.NDArray[np.bool_]:
        agreement = (self._spectra[pairs[:, 0]] * self._spectra[pairs[:, 1]].conj()) @ self._turns
        same: npt.NDArray[np.bool_] = agreement.real.max(axis=1) >= SIGNATURE_CORRELATION
        if same.any():
            pairs, shift = pairs[same], agreement[same].real.argmax(axis=1)
            rows, places = np.unique(pairs, return_inverse=True)
            smooth = smoothed(self._pixels_of(rows))
            one, other = smooth[places.reshape(-1, 2).T]
            same[same] = correlations(one, other, shift) >= NEAR_DUPLICATE_CORRELATION
        return same

    def _tie(self, pairs: Rows) -> None:
        if len(pairs):
            known = np.stack([np.arange(len(self.first)), self.first], axis=1)
            self.first = components(len(self.first), np.concatenate([known, pairs]))


def _rank(values: Rows) -> Rows:
    """Return for each value how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.searchsorted(values[order], values[order])
    return rank


def _turns() -> npt.NDArray[np.complex64]:
    """Return (38, 9): what each of nine shifts does to the phases of a signature."""
    down, across = frequencies()
    shifts = np.array(_SHIFTS).T
    turns = np.outer(down, shifts[0]) + np.outer(across, shifts[1])
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def smoothed(images: Pixels) -> npt.NDArray[np.uint16]:
    """Return sums over 3 by 3 pixels, uint16 (n, 50, 30): without grain and the traces of resizing."""
    wide = images.astype(np.uint16)
    tall = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    sums: npt.NDArray[np.uint16] = tall[:, :, :-2] + tall[:, :, 1:-1] + tall[:, :, 2:]
    return sums


def correlations(
    one: npt.NDArray[np.uint16], other: npt.NDArray[np.uint16], shifts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return how well each image agrees with its partner shifted by up to a pixel.

    Args:
        one: smoothed images (n, 50, 30).
        other: their partners.
        shifts: which of nine shifts took the first to the second, int (n,).

    Returns:
        float64 (n,): correlation of the interiors, 48 by 28. The sums in it are exact.
    """
    result = np.zeros(len(one))
    for number, (down, across) in enumerate(_SHIFTS):
        here = np.flatnonzero(shifts == number)
        result[here] = _correlation(_interior(one[here], 0, 0), _interior(other[here], -down, -across))
    return result


def _interior(smooth: npt.NDArray[np.uint16], down: int, across: int) -> npt.NDArray[np.float64]:
    _, height, width = smooth.shape
    edge = BORDER - 1  # smoothing has taken one pixel already
    inner = smooth[:, edge + down : height - edge + down, edge + across : width - edge + across]
    return inner.reshape(len(inner), inner.shape[1] * inner.shape[2]).astype(np.float64)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    count = a.shape[1]
    sum_a, sum_b = a.sum(axis=1), b.sum(axis=1)
    spread_a = count * np.einsum("ij,ij->i", a, a) - sum_a * sum_a
    spread_b = count * np.einsum("ij,ij->i", b, b) - sum_b * sum_b
    common = count * np.einsum("ij,ij->i", a, b) - sum_a * sum_b
    scale = np.sqrt(spread_a * spread_b)
    return np.divide(common, scale, out=np.zeros_like(common), where=scale > 0)


def components(count: int, pairs: Rows) -> Rows:
    """Return for each of `count` rows the smallest row that it is tied to by pairs, directly or not."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - half a second that most users of this room don't need
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    weights = np.ones(len(pairs), np.int8)
    graph = coo_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    _, component = connected_components(graph, directed=False)
    _, smallest = np.unique(component, return_index=True)
    return smallest[component].astype(np.int64)
