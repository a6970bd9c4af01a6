"""What is computed from pixels: identity, statistics, perceptual hash, descriptors and their signature.

All of it works on a stack of images at once, gray (n, height, width) or RGB (n, height, width, 3). Of an RGB
image its gray version counts, but for the identity. Sums are taken over whole numbers that floating point
holds exactly, so that a row does not depend on its neighbours in the stack or on the machine.

Near-duplicate search compares `thumbnails`: the gray image itself up to 64 pixels a side, a smaller one
of larger images. Every size below is derived from the thumbnail's.
"""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import xxhash

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

#: A pixel darker than this is foreground: the middle of the scale.
FOREGROUND_LEVEL = 128

#: Most pixels a side of a thumbnail.
THUMBNAIL = 64

#: Pixels at each edge that near-duplicate search leaves out: what a shift by one pixel, or a resize
#: and back, changes at the edge is no difference between images.
BORDER = 2

#: Crops that a signature is computed from, pixels down and across from the middle: whatever the shift
#: between two copies, up to a pixel each way, one of the first's DOWN crops shows what one of the second's
#: ACROSS does.
CROPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
DOWN, ACROSS = (0, 1, 2), (0, 3, 4)

#: Tables of the locality-sensitive hashing: each divides all descriptors into buckets of its own, and two
#: images of one bucket are a candidate pair. Copies (shift, noise of 10, JPEG 50, brightness by 20, resize to
#: three quarters and back) share a bucket in 998 of 1,000 cases or more; of pairs of distinct real images of
#: one class one in 5,000 does, of generated ones one in 300,000.
TABLES = 12

#: Width of a bucket in each direction; descriptors have length 1. Of CAPTCHA characters, with 34 directions,
#: copies differ by 0.03 in all, distinct images of a class by 0.9.
_BUCKET = 0.17

#: What 1 is in a stored descriptor, which holds whole numbers. Rounding moves the distance of two by 0.02.
DESCRIPTOR_SCALE = 127

#: Raised when descriptors or signatures are computed otherwise: groups found with another version are found
#: again.
SIGNATURE_VERSION = 3

_SCALE = 512  # of the integer basis: nine bits keep every sum exact and the basis true to 0.1 %


def image_id(pixels: Pixels) -> str:
    """Return the identity of an image: 32 hex digits of its pixels and size."""
    seed = pixels.shape[0] << 16 | pixels.shape[1]
    if pixels.ndim == 3:
        seed |= pixels.shape[2] << 32
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels).data, seed=seed)


def gray(pixels: Pixels) -> Pixels:
    """Return images in gray, uint8 (n, height, width), with the weights of ITU-R 601."""
    if pixels.ndim == 3:
        return pixels
    count, height, width, channels = pixels.shape
    rows = pixels.reshape(count * height, width, channels)
    flat = cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY) if count else rows[..., 0]
    return np.asarray(flat, np.uint8).reshape(count, height, width)


def thumbnails(pixels: Pixels) -> Pixels:
    """Return images in gray with at most 64 pixels a side, uint8 (n, h, w): means of square blocks.

    Rows and columns that fill no block are left out.
    """
    images = gray(pixels)
    count, height, width = images.shape
    block = -(-max(height, width) // THUMBNAIL)
    if block == 1:
        return images
    rows, columns = height // block, width // block
    whole = images[:, : rows * block, : columns * block].reshape(count, rows, block, columns, block)
    sums = whole.sum(axis=(2, 4), dtype=np.uint32)
    return ((sums + block * block // 2) // (block * block)).astype(np.uint8)


class Statistics:
    """Statistics of a stack of images, each an array of length n."""

    def __init__(self, pixels: Pixels) -> None:
        images = gray(pixels)
        count = images.shape[1] * images.shape[2]
        flat = images.reshape(len(images), count)
        exact = np.uint32 if count < 1 << 16 else np.uint64
        total = flat.sum(axis=1, dtype=exact).astype(np.float64)
        squares = np.square(flat, dtype=np.uint16).sum(axis=1, dtype=exact).astype(np.float64)
        mean = total / count
        self.brightness = mean.astype(np.float32)
        self.contrast = np.sqrt(np.maximum(squares / count - mean * mean, 0)).astype(np.float32)
        dark = np.count_nonzero(flat < FOREGROUND_LEVEL, axis=1)
        self.foreground_fraction = (dark / count).astype(np.float32)
        planes = [flat]
        if pixels.ndim == 4:
            planes = [plane.reshape(len(pixels), count) for plane in np.moveaxis(pixels, 3, 0)]
        self.blank = np.logical_and.reduce([plane.min(axis=1) == plane.max(axis=1) for plane in planes])


def _area_weights(size: int, bins: int) -> npt.NDArray[np.float32]:
    """Return whole-number weights (size, bins) of an average over `bins` equal parts of `size` pixels."""
    edges = np.arange(bins + 1) * size
    pixels = np.arange(size)[:, None] * bins
    overlap = np.minimum(pixels + bins, edges[1:]) - np.maximum(pixels, edges[:-1])
    return np.maximum(overlap, 0).astype(np.float32)


def dhash(pixels: Pixels) -> npt.NDArray[np.uint64]:
    """Return the difference hash of each image: in a 9x8 thumbnail, is a pixel darker than the next?"""
    images = thumbnails(pixels)
    down, across = (_area_weights(size, bins) for size, bins in zip(images.shape[1:], (8, 9), strict=True))
    small = down.T @ (images.astype(np.float32) @ across)
    bits = small[:, :, :-1] < small[:, :, 1:]
    return np.packbits(bits.reshape(len(pixels), 64), axis=1).view(">u8").ravel().astype(np.uint64)


def _cosines(size: int, number: int) -> npt.NDArray[np.float32]:
    """Return the first cosines of a crop of `size` pixels, (size + 2, 3 * number): middle, up, down."""
    position, frequency = np.arange(size)[:, None], np.arange(number)
    scale = np.where(frequency > 0, np.sqrt(2), 1) / np.sqrt(size)
    waves = scale * np.cos(np.pi * (position + 0.5) * frequency / size)
    shifted = [np.pad(waves, ((1 + shift, 1 - shift), (0, 0))) for shift in (0, -1, 1)]
    return np.round(_SCALE * np.hstack(shifted)).astype(np.float32)


class _Basis(NamedTuple):
    """The low frequencies that describe the crops of thumbnails of one size."""

    down: Floats
    across: npt.NDArray[np.float32]
    frequencies: tuple[int, int]


@lru_cache
def _basis(height: int, width: int) -> _Basis:
    """Return the basis for thumbnails of a size: 7 by 5 frequencies for 52 by 32 pixels."""
    rows, columns = height - 2 * BORDER, width - 2 * BORDER
    down, across = _frequencies(rows), _frequencies(columns)
    return _Basis(_cosines(rows, down).astype(np.float64), _cosines(columns, across), (down, across))


def _frequencies(size: int) -> int:
    """Return how many frequencies describe a crop of so many pixels: 4 to 7."""
    return min(7, max(4, round(size**0.5)))


def _drawn(name: str, rows: int, columns: int) -> Floats:
    """Return whole numbers below 2**32 as if drawn at random, the same for ever."""
    names = [f"{name} {row} {column}".encode() for row in range(rows) for column in range(columns)]
    return np.array([xxhash.xxh32_intdigest(name) for name in names], np.float64).reshape(rows, columns)


@lru_cache
def _tables(directions: int) -> tuple[Floats, Floats]:
    """Return offset and factor of every table in every direction."""
    return _drawn("offset", TABLES, directions) / 2**32, _drawn("factor", TABLES, directions)


def descriptors(pixels: Pixels) -> Floats:
    """Return the coarse structure of each crop of each image: float64 (n, 5, directions) of length 1.

    Low frequencies of the cosine transform without the mean: brightness and contrast cancel. A crop
    without structure is described by zeros.
    """
    images = thumbnails(pixels)
    basis = _basis(*images.shape[1:])
    near = BORDER - 1
    inner = images[:, near:-near, near:-near].astype(np.float32)
    waves = basis.down.T @ (inner @ basis.across).astype(np.float64)
    down, across = basis.frequencies
    crops = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)]  # which third of the basis is CROPS' shift
    parts = [waves[:, i * down :, j * across :][:, :down, :across] for i, j in crops]
    found = np.stack([part.reshape(len(pixels), down * across)[:, 1:] for part in parts], axis=1)
    length = np.sqrt(np.square(found).sum(axis=2, keepdims=True))
    return np.divide(found, length, out=np.zeros_like(found), where=length > 0)


def rounded(descriptors: Floats) -> npt.NDArray[np.int8]:
    """Return descriptors (n, 5, directions) as they are stored: int8 of the same shape, 127 for 1."""
    return np.rint(DESCRIPTOR_SCALE * descriptors).astype(np.int8)


def signatures(descriptors: Floats) -> npt.NDArray[np.uint32]:
    """Return the signature of each image: for every table, the bucket of every crop.

    Args:
        descriptors: float64 (n, 5, directions), not rounded.

    Returns:
        uint32 (n, 12, 5).
    """
    positions = descriptors / _BUCKET
    offsets, factors = _tables(positions.shape[2])
    result = np.empty((len(positions), TABLES, len(CROPS)), np.uint32)
    for table in range(TABLES):
        buckets = np.floor(positions + offsets[table])
        # whole numbers far below 2**53: the product is exact
        result[:, table] = (buckets @ factors[table]).astype(np.int64).astype(np.uint32)
    return result
