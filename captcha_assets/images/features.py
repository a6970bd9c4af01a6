"""What is computed from pixels: identity, statistics, perceptual hash, signature.

All of it works on a stack of images at once. Sums are taken over whole numbers that floating point
holds exactly, so that a row does not depend on its neighbours in the stack or on the machine.
"""

import numpy as np
import numpy.typing as npt
import xxhash

from captcha_assets.dataset import HEIGHT, WIDTH

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

#: A pixel darker than this is ink: the middle of the scale, between characters (0-100) and ground.
INK_LEVEL = 128

#: Pixels at each edge that near-duplicate search leaves out: what a shift by one pixel, or a resize
#: and back, changes at the edge is no difference between pictures.
BORDER = 2
_ROWS, _COLUMNS = HEIGHT - 2 * BORDER, WIDTH - 2 * BORDER

#: Crops a signature looks at, pixels down and across from the middle: whatever the shift between two
#: copies, up to a pixel each way, one of the first's DOWN crops shows what one of the second's ACROSS does.
CROPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
DOWN, ACROSS = (0, 1, 2), (0, 3, 4)

#: Low frequencies that describe a crop, down and across, but for the mean.
_FREQUENCIES = 7, 5

#: Chances that two copies get to meet: each is a division of all descriptions into cells of its own, and
#: images of one cell are compared. Copies (shift, noise of 10, JPEG 50, brightness by 20, resize to three
#: quarters and back) meet in 998 of 1,000 cases or more; of pairs of distinct real images of one class
#: one in 5,000 does, of generated ones one in 300,000.
CHANCES = 12

#: Width of a cell in each of the 34 directions; descriptions have length 1. Copies differ by 0.03 in all,
#: distinct images of a class by 0.9.
_CELL = 0.17

#: Changes when a signature means something else: groups found with another version are found anew.
SIGNATURE_VERSION = 2

_SCALE = 512  # of the integer basis: nine bits keep every sum exact and the basis true to 0.1 %


def image_id(pixels: Pixels) -> str:
    """Return the identity of an image: 32 hex digits of its pixels and size."""
    height, width = pixels.shape
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(pixels).data, seed=height << 16 | width)


class Statistics:
    """Statistics of a stack of images (n, 52, 32), each an array of length n."""

    def __init__(self, pixels: Pixels) -> None:
        count = pixels.shape[1] * pixels.shape[2]
        flat = pixels.reshape(len(pixels), count)
        total = flat.sum(axis=1, dtype=np.uint32).astype(np.float64)
        squares = np.square(flat, dtype=np.uint16).sum(axis=1, dtype=np.uint32).astype(np.float64)
        mean = total / count
        self.brightness = mean.astype(np.float32)
        self.contrast = np.sqrt(np.maximum(squares / count - mean * mean, 0)).astype(np.float32)
        self.ink = (np.count_nonzero(flat < INK_LEVEL, axis=1) / count).astype(np.float32)
        self.blank = flat.min(axis=1) == flat.max(axis=1)


def _area_weights(size: int, bins: int) -> npt.NDArray[np.float32]:
    """Return whole-number weights (size, bins) of an average over `bins` equal parts of `size` pixels."""
    edges = np.arange(bins + 1) * size
    pixels = np.arange(size)[:, None] * bins
    overlap = np.minimum(pixels + bins, edges[1:]) - np.maximum(pixels, edges[:-1])
    return np.maximum(overlap, 0).astype(np.float32)


_HASH_DOWN, _HASH_ACROSS = _area_weights(HEIGHT, 8), _area_weights(WIDTH, 9)


def dhash(pixels: Pixels) -> npt.NDArray[np.uint64]:
    """Return the difference hash of each image: in a 9x8 thumbnail, is a pixel darker than the next?"""
    thumbnails = _HASH_DOWN.T @ (pixels.astype(np.float32) @ _HASH_ACROSS)
    bits = thumbnails[:, :, :-1] < thumbnails[:, :, 1:]
    return np.packbits(bits.reshape(len(pixels), 64), axis=1).view(">u8").ravel().astype(np.uint64)


def _cosines(size: int, number: int) -> npt.NDArray[np.float32]:
    """Return the first cosines of a crop of `size` pixels, (size + 2, 3 * number): middle, up, down."""
    place, frequency = np.arange(size)[:, None], np.arange(number)
    scale = np.where(frequency > 0, np.sqrt(2), 1) / np.sqrt(size)
    waves = scale * np.cos(np.pi * (place + 0.5) * frequency / size)
    shifted = [np.pad(waves, ((1 + shift, 1 - shift), (0, 0))) for shift in (0, -1, 1)]
    return np.round(_SCALE * np.hstack(shifted)).astype(np.float32)


def _drawn(name: str, rows: int, columns: int) -> Floats:
    """Return whole numbers below 2**32 as if drawn by chance, the same for ever."""
    names = [f"{name} {row} {column}".encode() for row in range(rows) for column in range(columns)]
    return np.array([xxhash.xxh32_intdigest(name) for name in names], np.float64).reshape(rows, columns)


_COSINES_DOWN = _cosines(_ROWS, _FREQUENCIES[0]).astype(np.float64)
_COSINES_ACROSS = _cosines(_COLUMNS, _FREQUENCIES[1])
_DIRECTIONS = _FREQUENCIES[0] * _FREQUENCIES[1] - 1
_OFFSETS = _drawn("offset", CHANCES, _DIRECTIONS) / 2**32
_FACTORS = _drawn("factor", CHANCES, _DIRECTIONS)


def descriptions(pixels: Pixels) -> Floats:
    """Return what each crop of each image looks like from afar: float64 (n, 5, 34) of length 1.

    Low frequencies of the cosine transform without the mean: brightness and contrast cancel. A crop
    without structure is described by zeros.
    """
    near = BORDER - 1
    inner = pixels[:, near:-near, near:-near].astype(np.float32)
    waves = _COSINES_DOWN.T @ (inner @ _COSINES_ACROSS).astype(np.float64)
    down, across = _FREQUENCIES
    crops = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)]  # which third of the basis is CROPS' shift
    parts = [waves[:, i * down :, j * across :][:, :down, :across] for i, j in crops]
    found = np.stack([part.reshape(len(pixels), down * across)[:, 1:] for part in parts], axis=1)
    length = np.sqrt(np.square(found).sum(axis=2, keepdims=True))
    return np.divide(found, length, out=np.zeros_like(found), where=length > 0)


def signatures(pixels: Pixels) -> npt.NDArray[np.uint32]:
    """Return the signature of each image, uint32 (n, 12, 5): for every chance, the cell of every crop."""
    places = descriptions(pixels) / _CELL
    result = np.empty((len(pixels), CHANCES, len(CROPS)), np.uint32)
    for chance in range(CHANCES):
        cells = np.floor(places + _OFFSETS[chance])
        # whole numbers far below 2**53: the product is exact
        result[:, chance] = (cells @ _FACTORS[chance]).astype(np.int64).astype(np.uint32)
    return result
