"""Near-duplicates: the same image shifted by a pixel, brightened, re-encoded, resized and back.

Candidate pairs are found by locality-sensitive hashing: two images of a class that share a bucket in one of
the tables of their signatures. They are near-duplicates if their pixels correlate as well. Both depend on the
two images alone, never on what else there is. Comparing all pairs would be quadratic; buckets are sorted, so
that only candidate pairs are compared. Only groups are asked for, so pairs of one group are passed over: a
thousand copies of one image cost no more than a thousand images.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from captcha_assets.images.features import ACROSS, BORDER, CROPS, DOWN, SIGNATURE_VERSION


def rule(correlation: float) -> str:
    """Name the rule by which groups are found: groups found by another one are found again."""
    return f"{SIGNATURE_VERSION}/{correlation}"


Pixels = npt.NDArray[np.uint8]
Signatures = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]

#: Candidate pairs processed at once, candidate pairs that wait until pixels are compared, pairs whose pixels
#: are read together, and pairs that are calculated together: they bound the memory.
_CANDIDATES = 1 << 20
_WAITING = 1 << 16
_PAIRS = 1 << 14
_CALCULATED = 1 << 10


def near_duplicate_groups(
    signatures: Signatures,
    thumbnails_of: Callable[[Rows], Pixels],
    correlation: float,
    known: Rows | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Return for each image of one class the first row of its near-duplicate group.

    Args:
        signatures: uint32 (n, 12, 5), see `features.signatures`.
        thumbnails_of: gives the thumbnails (m, h, w) of rows, see `features.thumbnails`; asked for those of
            candidate pairs, some at a time.
        correlation: of smoothed pixels, from which two images are near-duplicates.
        known: for each row the first row of a group that is known already; default: none is known.
        fresh: rows that were never compared; pairs of other rows are left out. Default: all.

    Returns:
        int64 (n,), smallest row of each row's group; its own number where it is alone.
    """
    everyone = np.arange(len(signatures))
    new = everyone if fresh is None else np.flatnonzero(fresh)
    groups = _Groups(everyone if known is None else known, thumbnails_of, correlation)
    for buckets in np.moveaxis(signatures, 1, 0):
        down, across = buckets[:, list(DOWN)], buckets[:, list(ACROSS)]
        groups.add_candidates(_Crops(down, everyone, DOWN), _Crops(across[new], new, ACROSS).in_order())
        if len(new) < len(everyone):  # the new ones were compared with each other above
            groups.add_candidates(_Crops(across, everyone, ACROSS), _Crops(down[new], new, DOWN).in_order())
    groups.compare()
    return groups.first


class _Crops:
    """Crops of some rows: their buckets, and for a position among these its row and its crop."""

    def __init__(self, buckets: Signatures, rows: Rows, crops: tuple[int, ...]) -> None:
        self.bucket = buckets.ravel()
        self._rows, self._crops = rows, np.array(crops)
        self._order: Rows | None = None

    def in_order(self) -> "_Crops":
        """Sort them by bucket."""
        self._order = np.argsort(self.bucket)
        self.bucket = self.bucket[self._order]
        return self

    # of millions of crops a handful share a bucket: only these are decoded, and the others need no memory

    def row(self, positions: Rows) -> Rows:
        """Return the rows of the crops at these positions."""
        return self._rows[self._before(positions) // len(self._crops)]

    def crop(self, positions: Rows) -> Rows:
        """Return which crops lie at these positions."""
        result: Rows = self._crops[self._before(positions) % len(self._crops)]
        return result

    def _before(self, positions: Rows) -> Rows:
        return positions if self._order is None else self._order[positions]


class _Groups:
    """The near-duplicate groups of one class, as far as they are known."""

    def __init__(self, first: Rows, thumbnails_of: Callable[[Rows], Pixels], correlation: float) -> None:
        self.first = first
        self._thumbnails_of = thumbnails_of
        self._correlation = correlation
        self._waiting: list[Rows] = []

    def add_candidates(self, ones: _Crops, others: _Crops) -> None:
        """Add the pairs of which a crop of `ones` and a crop of `others`, sorted, lie in one bucket.

        Each row gets a few partners first: those that then join its group need not be compared with it.
        """
        one, begin, end = _runs(ones.bucket, others.bucket)
        few = 1
        while True:
            begin = self._past_own_group(self.first[ones.row(one)], begin, others)
            left = begin < end
            one, begin, end = one[left], begin[left], end[left]
            if len(one) == 0:
                return
            number = np.minimum(end - begin, few)
            pair, other = np.repeat(one, number), np.repeat(begin, number) + _counted(number)
            found = np.stack([ones.row(pair), others.row(other), ones.crop(pair), others.crop(other)])
            self._waiting.append(found[:, self.first[found[0]] != self.first[found[1]]])
            if sum(pairs.shape[1] for pairs in self._waiting) >= _WAITING:
                self.compare()
            begin = begin + number
            few = max(1, min(4 * few, _CANDIDATES // len(one)))

    def _past_own_group(self, groups: Rows, begin: Rows, others: _Crops) -> Rows:
        """Return where, from `begin` on, the first of `others` stands that is not in the group."""
        rows = others.row(np.arange(len(others.bucket)))
        theirs = np.append(self.first[rows], -1)  # the end belongs to no group
        changes = np.flatnonzero(np.diff(theirs)) + 1
        own = np.flatnonzero(theirs[begin] == groups)
        begin = begin.copy()
        begin[own] = changes[np.searchsorted(changes, begin[own], side="right")]
        return begin

    def compare(self) -> None:
        """Compare the pixels of the waiting pairs, in the order of their rows; join groups that correlate."""
        pairs = np.concatenate([np.zeros((4, 0), np.int64), *self._waiting], axis=1)
        self._waiting = []
        swapped = pairs[0] > pairs[1]
        pairs[:, swapped] = pairs[:, swapped][[1, 0, 3, 2]]
        pairs = np.unique(pairs, axis=1)  # copies share many buckets
        for start in range(0, pairs.shape[1], _PAIRS):
            one, other, *crops = pairs[:, start : start + _PAIRS]
            rows, positions = np.unique(np.stack([one, other]), return_inverse=True)
            agreement = _agreement(self._thumbnails_of(rows), positions.reshape(2, -1), np.stack(crops))
            same = agreement >= self._correlation
            if same.any():
                known = np.stack([np.arange(len(self.first)), self.first], axis=1)
                found = np.stack([one[same], other[same]], axis=1)
                self.first = components(len(self.first), np.concatenate([known, found]))


def _runs(wanted: npt.NDArray[np.uint32], buckets: npt.NDArray[np.uint32]) -> tuple[Rows, Rows, Rows]:
    """Return which of `wanted` stand in the sorted `buckets`, and for each where its run begins and ends."""
    if len(buckets) == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    # most stand nowhere, and half of their bits already say so
    known = np.zeros(1 << 16, bool)
    known[buckets.astype(np.uint16)] = True
    which = np.flatnonzero(known[wanted.astype(np.uint16)])
    which = which[np.argsort(wanted[which])]  # searching in order is eight times as fast
    begin = np.searchsorted(buckets, wanted[which])
    there = buckets[begin.clip(max=len(buckets) - 1)] == wanted[which]
    return which[there], begin[there], np.searchsorted(buckets, wanted[which[there]], side="right")


def _counted(numbers: Rows) -> Rows:
    """Return 0, 1, ... for each number, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    starts = np.cumsum(numbers) - numbers
    return np.arange(numbers.sum()) - np.repeat(starts, numbers)


def _agreement(pixels: Pixels, positions: Rows, crops: Rows) -> npt.NDArray[np.float64]:
    """Return the correlation of pairs (2, n) of images, a block at a time."""
    result = np.empty(positions.shape[1])
    for start in range(0, len(result), _CALCULATED):
        here = slice(start, start + _CALCULATED)
        one, other = (smoothed(pixels[side]) for side in positions[:, here])
        result[here] = correlations(one, crops[0, here], other, crops[1, here])
    return result


def smoothed(images: Pixels) -> npt.NDArray[np.uint16]:
    """Return sums over 3 by 3 pixels, uint16 (n, h - 2, w - 2): without grain and the traces of resizing."""
    wide = images.astype(np.uint16)
    tall = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    sums: npt.NDArray[np.uint16] = tall[:, :, :-2] + tall[:, :, 1:-1] + tall[:, :, 2:]
    return sums


def correlations(
    one: npt.NDArray[np.uint16], one_crop: Rows, other: npt.NDArray[np.uint16], other_crop: Rows
) -> npt.NDArray[np.float64]:
    """Return how well a crop of each image agrees with a crop of its partner.

    Args:
        one: smoothed thumbnails (n, h, w).
        one_crop: which of `CROPS` to take, int (n,).
        other: their partners.
        other_crop: the same for the partners.

    Returns:
        float64 (n,): correlation of the crops. The sums in it are exact.
    """
    return _correlation(_cropped(one, one_crop), _cropped(other, other_crop))


def _cropped(smooth: npt.NDArray[np.uint16], crop: Rows) -> npt.NDArray[np.float64]:
    _, height, width = smooth.shape
    edge = BORDER - 1  # smoothing has taken one pixel already
    result = np.empty((len(smooth), height - 2 * edge, width - 2 * edge))
    for number, (down, across) in enumerate(CROPS):
        here = crop == number
        result[here] = smooth[here, edge + down : height - edge + down, edge + across : width - edge + across]
    return result.reshape(len(smooth), -1) if len(smooth) else result.reshape(0, 1)


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    count = a.shape[1]
    sum_a, sum_b = a.sum(axis=1), b.sum(axis=1)
    spread_a = count * np.einsum("ij,ij->i", a, a) - sum_a * sum_a
    spread_b = count * np.einsum("ij,ij->i", b, b) - sum_b * sum_b
    common = count * np.einsum("ij,ij->i", a, b) - sum_a * sum_b
    scale = np.sqrt(spread_a * spread_b)
    return np.divide(common, scale, out=np.zeros_like(common), where=scale > 0)


def components(count: int, pairs: Rows) -> Rows:
    """Return for each of `count` rows the smallest row that pairs connect it to, directly or not."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - half a second that most users of this package don't need
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    weights = np.ones(len(pairs), np.int8)
    graph = coo_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    _, component = connected_components(graph, directed=False)
    _, smallest = np.unique(component, return_index=True)
    return smallest[component].astype(np.int64)
