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

#: Highest frequencies (cycles per interior) of the signature, down and across.
_DOWN, _ACROSS = 5, 3

#: Numbers in a signature: real and imaginary parts of half of the spectrum; the other half mirrors it.
SIGNATURE_SIZE = (2 * _DOWN + 1) * (2 * _ACROSS + 1) - 1

#: Changes when a signature means something else: pairs found with another version are found anew.
SIGNATURE_VERSION = 1

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


def _basis(size: int, highest: int) -> npt.NDArray[np.float32]:
    """Return (size, 2 * highest + 1): windowed cosines of 0..highest, then sines of 1..highest."""
    place = np.arange(size)[:, None]
    turns = 2 * np.pi * place / size
    waves = [np.cos(turns * np.arange(highest + 1)), np.sin(turns * np.arange(1, highest + 1))]
    window = np.sin(np.pi * (place + 0.5) / size)
    return np.round(_SCALE * window * np.hstack(waves)).astype(np.float32)


_WAVES_DOWN, _WAVES_ACROSS = _basis(_ROWS, _DOWN).astype(np.float64), _basis(_COLUMNS, _ACROSS)
_FLAT = np.outer(_WAVES_DOWN.sum(axis=0), _WAVES_ACROSS.sum(axis=0, dtype=np.float64))


def frequencies() -> tuple[Floats, Floats]:
    """Return the frequency down and across, in turns a pixel, of each complex number of a signature."""
    down, across = np.meshgrid(np.arange(-_DOWN, _DOWN + 1), np.arange(_ACROSS + 1), indexing="ij")
    keep = (across > 0) | (down > 0)
    return down[keep] / _ROWS, across[keep] / _COLUMNS


def signatures(pixels: Pixels) -> npt.NDArray[np.float16]:
    """Return the signature of each image, float16 (n, 76): low frequencies of its interior.

    A row is the real parts, then the imaginary parts, of the Fourier coefficients named by
    `frequencies`, after a sine window, without the mean, scaled to unit length. A shift by a pixel
    turns the phases by a known angle and leaves the magnitudes nearly as they are; brightness and
    contrast cancel. A picture without structure has a signature of zeros.
    """
    interior = pixels[:, BORDER:-BORDER, BORDER:-BORDER].astype(np.float32)
    waves = _WAVES_DOWN.T @ (interior @ _WAVES_ACROSS).astype(np.float64)
    waves = waves - (waves[:, :1, :1] / _FLAT[0, 0]) * _FLAT
    real, imaginary = _combine(waves)
    parts = np.concatenate([real, imaginary], axis=1)
    length = np.sqrt(np.square(parts).sum(axis=1, keepdims=True))
    return np.divide(parts, length, out=np.zeros_like(parts), where=length > 0).astype(np.float16)


def _combine(waves: Floats) -> tuple[Floats, Floats]:
    """Turn products of sines and cosines (n, 11, 7) into complex coefficients of a half plane."""
    cosines, sines = waves[:, : _DOWN + 1], waves[:, _DOWN + 1 :]
    cosines = np.concatenate([cosines[:, :0:-1], cosines], axis=1)  # frequencies -5..5
    sines = np.concatenate([-sines[:, ::-1], np.zeros_like(sines[:, :1]), sines], axis=1)
    pad = np.zeros_like(cosines[:, :, :1])
    cos_cos, cos_sin = (
        cosines[:, :, : _ACROSS + 1],
        np.concatenate([pad, cosines[:, :, _ACROSS + 1 :]], axis=2),
    )
    sin_cos, sin_sin = sines[:, :, : _ACROSS + 1], np.concatenate([pad, sines[:, :, _ACROSS + 1 :]], axis=2)
    down, across = np.meshgrid(np.arange(-_DOWN, _DOWN + 1), np.arange(_ACROSS + 1), indexing="ij")
    keep = (across > 0) | (down > 0)
    return (cos_cos - sin_sin)[:, keep], (-(sin_cos + cos_sin))[:, keep]
