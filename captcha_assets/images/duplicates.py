"""Near-duplicates: the same picture shifted by a pixel, brightened, re-encoded, resized and back.

Two images of a class are near-duplicates if their signatures meet and their pixels agree, which depends
on these two alone, never on what else there is. Comparing all pairs would be quadratic; signatures are
sorted, so that only images that meet are compared. Only groups are asked for, so pairs that are tied
already are passed over: a thousand copies of one picture cost no more than a thousand pictures.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from captcha_assets.images.features import ACROSS, BORDER, CROPS, DOWN, SIGNATURE_VERSION

#: Correlation of smoothed pixels from which two images of one class count as one picture. Copies (shift,
#: brightness, JPEG 50, noise of 10, resize and back) stay above 0.9985 on real and on generated
#: characters, resized to three quarters and back above 0.995. Of 24,000 pairs of distinct real images none
#: exceeds 0.978, of 16 million generated ones none 0.980.
NEAR_DUPLICATE_CORRELATION = 0.996

#: Names the rule: groups found by another one are found anew.
RULE = f"{SIGNATURE_VERSION}/{NEAR_DUPLICATE_CORRELATION}"

Pixels = npt.NDArray[np.uint8]
Signatures = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]

#: Meetings looked at together, meetings that wait until pixels are compared, pairs whose pixels are read
#: together, and pairs that are calculated together: they bound the memory.
_MEETINGS = 1 << 20
_UNSETTLED = 1 << 16
_PAIRS = 1 << 14
_CALCULATED = 1 << 10


def near_duplicate_groups(
    signatures: Signatures,
    pixels_of: Callable[[Rows], Pixels],
    known: Rows | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Return for each image of one class the first row of its near-duplicate group.

    Args:
        signatures: uint32 (n, 12, 5), see `features.signatures`.
        pixels_of: gives the pixels (m, 52, 32) of rows; asked for those that meet, some at a time.
        known: for each row the first row of a group that is known already; default: none is known.
        fresh: rows that nobody has compared yet; pairs of other rows are left out. Default: all.

    Returns:
        int64 (n,), smallest row of each row's group; its own number where it is alone.
    """
    everyone = np.arange(len(signatures))
    new = everyone if fresh is None else np.flatnonzero(fresh)
    ties = _Ties(everyone if known is None else known, pixels_of)
    for cells in np.moveaxis(signatures, 1, 0):
        down, across = cells[:, list(DOWN)], cells[:, list(ACROSS)]
        ties.meet(_Crops(down, everyone, DOWN), _Crops(across[new], new, ACROSS).in_order())
        if len(new) < len(everyone):  # the new ones have all met among themselves
            ties.meet(_Crops(across, everyone, ACROSS), _Crops(down[new], new, DOWN).in_order())
    ties.settle()
    return ties.first


class _Crops:
    """Crops of some rows: their cells, and for places among these the row and the crop that lies there."""

    def __init__(self, cells: Signatures, rows: Rows, crops: tuple[int, ...]) -> None:
        self.cell = cells.ravel()
        self._rows, self._crops = rows, np.array(crops)
        self._order: Rows | None = None

    def in_order(self) -> "_Crops":
        """Sort them by cell."""
        self._order = np.argsort(self.cell)
        self.cell = self.cell[self._order]
        return self

    # of millions of crops a handful meet: these are asked for, and the others need no memory

    def row(self, places: Rows) -> Rows:
        """Return the rows of the crops at these places."""
        return self._rows[self._before(places) // len(self._crops)]

    def crop(self, places: Rows) -> Rows:
        """Return which crops lie at these places."""
        result: Rows = self._crops[self._before(places) % len(self._crops)]
        return result

    def _before(self, places: Rows) -> Rows:
        return places if self._order is None else self._order[places]


class _Ties:
    """Which rows of one class belong together, as far as is known."""

    def __init__(self, first: Rows, pixels_of: Callable[[Rows], Pixels]) -> None:
        self.first = first
        self._pixels_of = pixels_of
        self._met: list[Rows] = []

    def meet(self, ones: _Crops, others: _Crops) -> None:
        """Have images meet of which a crop of `ones` and a crop of `others`, sorted, lie in one cell.

        Each one meets a few first: whom they tie to it need not be met.
        """
        one, begin, end = _runs(ones.cell, others.cell)
        few = 1
        while True:
            begin = self._past_friends(self.first[ones.row(one)], begin, others)
            left = begin < end
            one, begin, end = one[left], begin[left], end[left]
            if len(one) == 0:
                return
            number = np.minimum(end - begin, few)
            pair, other = np.repeat(one, number), np.repeat(begin, number) + _counted(number)
            met = np.stack([ones.row(pair), others.row(other), ones.crop(pair), others.crop(other)])
            self._met.append(met[:, self.first[met[0]] != self.first[met[1]]])
            if sum(meetings.shape[1] for meetings in self._met) >= _UNSETTLED:
                self.settle()
            begin = begin + number
            few = max(1, min(4 * few, _MEETINGS // len(one)))

    def _past_friends(self, groups: Rows, begin: Rows, others: _Crops) -> Rows:
        """Return where, from `begin` on, the first of `others` stands that is not in the group."""
        rows = others.row(np.arange(len(others.cell)))
        theirs = np.append(self.first[rows], -1)  # nobody's friend stands at the end
        changes = np.flatnonzero(np.diff(theirs)) + 1
        friends = np.flatnonzero(theirs[begin] == groups)
        begin = begin.copy()
        begin[friends] = changes[np.searchsorted(changes, begin[friends], side="right")]
        return begin

    def settle(self) -> None:
        """Compare the pixels of those who met, in the order of their rows, and tie those that agree."""
        met = np.concatenate([np.zeros((4, 0), np.int64), *self._met], axis=1)
        self._met = []
        swapped = met[0] > met[1]
        met[:, swapped] = met[:, swapped][[1, 0, 3, 2]]
        met = np.unique(met, axis=1)  # copies meet again and again
        for start in range(0, met.shape[1], _PAIRS):
            one, other, *crops = met[:, start : start + _PAIRS]
            rows, places = np.unique(np.stack([one, other]), return_inverse=True)
            agreement = _agreement(self._pixels_of(rows), places.reshape(2, -1), np.stack(crops))
            same = agreement >= NEAR_DUPLICATE_CORRELATION
            if same.any():
                known = np.stack([np.arange(len(self.first)), self.first], axis=1)
                pairs = np.stack([one[same], other[same]], axis=1)
                self.first = components(len(self.first), np.concatenate([known, pairs]))


def _runs(wanted: npt.NDArray[np.uint32], cells: npt.NDArray[np.uint32]) -> tuple[Rows, Rows, Rows]:
    """Return which of `wanted` stand in the sorted `cells`, and for each where its run begins and ends."""
    if len(cells) == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    # most stand nowhere, and half of their bits already say so
    known = np.zeros(1 << 16, bool)
    known[cells.astype(np.uint16)] = True
    which = np.flatnonzero(known[wanted.astype(np.uint16)])
    which = which[np.argsort(wanted[which])]  # searching in order is eight times as fast
    begin = np.searchsorted(cells, wanted[which])
    there = cells[begin.clip(max=len(cells) - 1)] == wanted[which]
    return which[there], begin[there], np.searchsorted(cells, wanted[which[there]], side="right")


def _counted(numbers: Rows) -> Rows:
    """Return 0, 1, ... for each number, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    starts = np.cumsum(numbers) - numbers
    return np.arange(numbers.sum()) - np.repeat(starts, numbers)


def _agreement(pixels: Pixels, places: Rows, crops: Rows) -> npt.NDArray[np.float64]:
    """Return the correlation of pairs (2, n) of images, a block at a time."""
    result = np.empty(places.shape[1])
    for start in range(0, len(result), _CALCULATED):
        here = slice(start, start + _CALCULATED)
        one, other = (smoothed(pixels[side]) for side in places[:, here])
        result[here] = correlations(one, crops[0, here], other, crops[1, here])
    return result


def smoothed(images: Pixels) -> npt.NDArray[np.uint16]:
    """Return sums over 3 by 3 pixels, uint16 (n, 50, 30): without grain and the traces of resizing."""
    wide = images.astype(np.uint16)
    tall = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    sums: npt.NDArray[np.uint16] = tall[:, :, :-2] + tall[:, :, 1:-1] + tall[:, :, 2:]
    return sums


def correlations(
    one: npt.NDArray[np.uint16], one_crop: Rows, other: npt.NDArray[np.uint16], other_crop: Rows
) -> npt.NDArray[np.float64]:
    """Return how well a crop of each image agrees with a crop of its partner.

    Args:
        one: smoothed images (n, 50, 30).
        one_crop: which of `CROPS` to take, int (n,).
        other: their partners.
        other_crop: the same for the partners.

    Returns:
        float64 (n,): correlation of the crops, 48 by 28. The sums in it are exact.
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
    """Return for each of `count` rows the smallest row that it is tied to by pairs, directly or not."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - half a second that most users of this room don't need
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    weights = np.ones(len(pairs), np.int8)
    graph = coo_array((weights, (pairs[:, 0], pairs[:, 1])), shape=(count, count)).tocsr()
    _, component = connected_components(graph, directed=False)
    _, smallest = np.unique(component, return_index=True)
    return smallest[component].astype(np.int64)
