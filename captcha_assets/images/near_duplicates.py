"""Near-duplicates: the same image shifted by a pixel, brightened, re-encoded, resized and back.

Candidate pairs are found by locality-sensitive hashing: two images of a class that share a bucket in one of
the tables of their signatures. Most share it by chance: their descriptors, which lie in memory, are farther
apart than those of copies are. Of the others, images are near-duplicates if their pixels correlate. All of
it depends on the two images alone, never on what else there is. Comparing all pairs would be quadratic;
buckets are sorted, so that only candidate pairs are compared. Only groups are asked for, so pairs of one
group are passed over: a thousand copies of one image cost no more than a thousand images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captcha_assets.images.features import ACROSS, BORDER, CROPS, DESCRIPTOR_SCALE, DOWN, SIGNATURE_VERSION


def rule(correlation: float) -> str:
    """Name the rule by which groups are found: groups found by another one are found again."""
    return f"{SIGNATURE_VERSION}/{correlation}"


Pixels = npt.NDArray[np.uint8]
Signatures = npt.NDArray[np.uint32]
Descriptors = npt.NDArray[np.int8]
Rows = npt.NDArray[np.int64]

#: Candidate pairs processed at once, candidate pairs that wait until pixels are compared, pairs whose pixels
#: are read together, and pairs that are calculated together: they bound the memory.
_CANDIDATES = 1 << 20
_WAITING = 1 << 16
_PAIRS = 1 << 18
_CALCULATED = 1 << 10
#: Candidate pairs whose descriptors are compared together.
_DESCRIBED = 1 << 14

#: The first partner of a row counts as a quarter of a further one: of images that have hardly anything in
#: common, four times as many pairs are then read together, each row group once instead of several times.
_FIRST_WEIGHS = 0.25

#: Bits of a bucket that a filter looks at; it has a byte for each value of them.
_FILTER_BITS = 21
#: So many rows are looked at together: what is calculated of them stays in the processor's cache.
_ROWS_AT_ONCE = 1 << 12


def near_duplicate_groups(
    signatures: Signatures,
    descriptors: Descriptors,
    thumbnails_of: Callable[[Rows], Pixels],
    correlation: float,
    *,
    known: Rows | None = None,
    fresh: npt.NDArray[np.bool_] | None = None,
) -> Rows:
    """Return for each image of one class the first row of its near-duplicate group.

    Args:
        signatures: uint32 (n, 12, 5), see `features.signatures`.
        descriptors: int8 (n, 5, directions), see `features.rounded`.
        thumbnails_of: gives the thumbnails (m, h, w) of rows, see `features.thumbnails`; asked for those of
            candidate pairs, some at a time.
        correlation: of smoothed pixels, from which two images are near-duplicates.
        known: for each row the first row of a group that is known already; default: none is known.
        fresh: rows that were never compared; pairs of other rows are left out. Default: all.

    Returns:
        int64 (n,), smallest row of each row's group; its own number where it is alone.
    """
    everyone = np.arange(len(signatures))
    new = np.ones(len(signatures), bool) if fresh is None else fresh
    groups = _Groups(everyone if known is None else known, descriptors, thumbnails_of, correlation)
    for buckets in np.moveaxis(signatures, 1, 0):
        shared = _shared(buckets, new)
        down, across = shared.some_of(DOWN), shared.some_of(ACROSS)
        groups.add_candidates(down, across.of_rows(new).in_order())
        if not new.all():  # the new ones were compared with each other above
            groups.add_candidates(across, down.of_rows(new).in_order())
    groups.compare()
    return groups.first


class _Filter:
    """Tells quickly which buckets may be among the wanted ones: nearly all others are ruled out."""

    def __init__(self, wanted: npt.NDArray[np.uint32]) -> None:
        self._last_bits, self._first_bits = (np.zeros(1 << _FILTER_BITS, bool) for _ in range(2))
        self._last_bits[self._last(wanted)] = True
        self._first_bits[self._first(wanted)] = True

    def suspects(self, buckets: npt.NDArray[np.uint32]) -> Rows:
        """Return the positions of those that may be among the wanted ones."""
        found = np.flatnonzero(self._last_bits.take(self._last(buckets), mode="clip"))
        return found[self._first_bits.take(self._first(buckets[found]), mode="clip")]

    @staticmethod
    def _last(buckets: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        return buckets & np.uint32((1 << _FILTER_BITS) - 1)

    @staticmethod
    def _first(buckets: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        return buckets >> np.uint32(32 - _FILTER_BITS)


class Buckets:
    """The buckets of some images: which others share one with them? All that don't are no near-duplicates."""

    def __init__(self, signatures: Signatures) -> None:
        """Take the signatures of the images, uint32 (n, 12, 5)."""
        numbered = signatures.astype(np.uint64) | _numbers_of_tables(signatures.shape[1])[:, None]
        self._wanted = np.sort(numbered.ravel())
        self._filter = _Filter(signatures.ravel())

    def sharing(self, signatures: Signatures) -> Rows:
        """Return the rows of others, uint32 (m, 12, 5), that share a bucket with one of the images."""
        blocks = range(0, len(signatures), _ROWS_AT_ONCE)
        found = [start + self._sharing(signatures[start : start + _ROWS_AT_ONCE]) for start in blocks]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _sharing(self, signatures: Signatures) -> Rows:
        flat = signatures.ravel()
        suspects = self._filter.suspects(flat)
        row, place = np.divmod(suspects, signatures[0].size)
        values = flat[suspects].astype(np.uint64)
        values |= _numbers_of_tables(signatures.shape[1])[place // signatures.shape[2]]
        there = np.searchsorted(self._wanted, values).clip(max=len(self._wanted) - 1)
        return np.unique(row[self._wanted[there] == values])


def _numbers_of_tables(count: int) -> npt.NDArray[np.uint64]:
    """Return what sets a bucket apart from those of other tables."""
    return np.arange(count, dtype=np.uint64) << np.uint64(32)


@dataclass(frozen=True)
class _Crops:
    """Crops of images, arrays of one length: the bucket of each, its image's row, and which crop it is."""

    bucket: npt.NDArray[np.uint32]
    row: Rows
    crop: Rows

    def __getitem__(self, which: Rows | npt.NDArray[np.bool_]) -> "_Crops":
        return _Crops(self.bucket[which], self.row[which], self.crop[which])

    def some_of(self, crops: tuple[int, ...]) -> "_Crops":
        """Return those that are one of these of `CROPS`."""
        return self[np.isin(self.crop, crops)]

    def of_rows(self, wanted: npt.NDArray[np.bool_]) -> "_Crops":
        """Return those of the images that are wanted."""
        return self[wanted[self.row]]

    def in_order(self) -> "_Crops":
        """Return them sorted by bucket."""
        return self[np.argsort(self.bucket, kind="stable")]


def _shared(buckets: npt.NDArray[np.uint32], new: npt.NDArray[np.bool_]) -> _Crops:
    """Return the crops (n, 5) in buckets that hold several crops, one of a new image among them.

    Of millions they are a handful: all that comes after looks at these alone.
    """
    flat = np.ascontiguousarray(buckets).ravel()
    if new.all():
        positions = _among(flat, _repeated(flat))
    else:
        positions = _among(flat, np.unique(buckets[new]))
        positions = positions[_among(flat[positions], _repeated(flat[positions]))]
    return _Crops(flat[positions], positions // len(CROPS), positions % len(CROPS))


def _repeated(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the values that stand there several times, once each, sorted."""
    values = np.sort(values)
    return np.unique(values[1:][values[1:] == values[:-1]])


def _among(values: npt.NDArray[np.uint32], wanted: npt.NDArray[np.uint32]) -> Rows:
    """Return the positions of the values that are among the wanted ones, which are sorted."""
    suspects = _Filter(wanted).suspects(values)
    place = np.searchsorted(wanted, values[suspects])
    return suspects[wanted[place.clip(max=len(wanted) - 1)] == values[suspects]] if len(wanted) else suspects


class _Groups:
    """The near-duplicate groups of one class, as far as they are known."""

    def __init__(
        self,
        first: Rows,
        descriptors: Descriptors,
        thumbnails_of: Callable[[Rows], Pixels],
        correlation: float,
    ) -> None:
        self.first = first
        self._descriptors = descriptors
        self._thumbnails_of = thumbnails_of
        self._correlation = correlation
        self._waiting: list[Rows] = []
        self._weight = 0.0

    def add_candidates(self, ones: _Crops, others: _Crops) -> None:
        """Add the pairs of which a crop of `ones` and a crop of `others`, sorted, lie in one bucket.

        Each row gets a few partners first: those that then join its group need not be compared with it.
        """
        one, begin, end = _runs(ones.bucket, others.bucket)
        few = 1
        while True:
            begin = self._past_own_group(self.first[ones.row[one]], begin, others)
            left = begin < end
            one, begin, end = one[left], begin[left], end[left]
            if len(one) == 0:
                return
            number = np.minimum(end - begin, few)
            pair, other = np.repeat(one, number), np.repeat(begin, number) + _counted(number)
            apart = self.first[ones.row[pair]] != self.first[others.row[other]]
            pair, other = pair[apart], other[apart]
            found = np.stack([ones.row[pair], others.row[other], ones.crop[pair], others.crop[other]])
            close = distances(self._descriptors, *found) <= farthest_apart(self._correlation)
            self._waiting.append(found[:, close])
            self._weight += self._waiting[-1].shape[1] * (_FIRST_WEIGHS if few == 1 else 1)
            if self._weight >= _WAITING:
                self.compare()
            begin = begin + number
            few = max(1, min(4 * few, _CANDIDATES // len(one)))

    def _past_own_group(self, groups: Rows, begin: Rows, others: _Crops) -> Rows:
        """Return where, from `begin` on, the first of `others` stands that is not in the group."""
        theirs = np.append(self.first[others.row], -1)  # the end belongs to no group
        changes = np.flatnonzero(np.diff(theirs)) + 1
        own = np.flatnonzero(theirs[begin] == groups)
        begin = begin.copy()
        begin[own] = changes[np.searchsorted(changes, begin[own], side="right")]
        return begin

    def compare(self) -> None:
        """Compare the pixels of the waiting pairs, in the order of their rows; join groups that correlate."""
        pairs = np.concatenate([np.zeros((4, 0), np.int64), *self._waiting], axis=1)
        self._waiting, self._weight = [], 0.0
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
    begin = np.searchsorted(buckets, wanted)
    end = np.searchsorted(buckets, wanted, side="right")
    there = np.flatnonzero(begin < end)
    return there, begin[there], end[there]


def _counted(numbers: Rows) -> Rows:
    """Return 0, 1, ... for each number, one after the other: [2, 3] gives [0, 1, 0, 1, 2]."""
    starts = np.cumsum(numbers) - numbers
    return np.arange(numbers.sum()) - np.repeat(starts, numbers)


def farthest_apart(correlation: float) -> float:
    """Return how far apart the descriptors of images are at most whose smoothed pixels correlate so well.

    Two vectors of length 1 that correlate lie `sqrt(2 - 2 * correlation)` apart. Descriptors see less of an
    image than smoothed pixels do, and are rounded: hence the factor and 0.02 more, which none of the copies
    of real and of generated characters exceeded that `python -m benchmarks.ingest.duplicates` makes.
    """
    return float(1.05 * np.sqrt(2 - 2 * correlation) + 0.02)


def distances(
    descriptors: Descriptors, one: Rows, other: Rows, one_crop: Rows, other_crop: Rows
) -> npt.NDArray[np.float64]:
    """Return how far apart the descriptors of pairs are: float64 (n,), from 0 to 2.

    Args:
        descriptors: int8 (m, 5, directions), see `features.rounded`.
        one: rows of images, int (n,).
        other: rows of their partners.
        one_crop: which of `CROPS` to take, int (n,).
        other_crop: the same for the partners.
    """
    squares = np.empty(len(one), np.int32)
    for start in range(0, len(one), _DESCRIBED):
        here = slice(start, start + _DESCRIBED)
        difference = descriptors[one[here], one_crop[here]].astype(np.int32)
        difference -= descriptors[other[here], other_crop[here]]
        np.einsum("ij,ij->i", difference, difference, out=squares[here])
    return np.sqrt(squares) / DESCRIPTOR_SCALE


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
