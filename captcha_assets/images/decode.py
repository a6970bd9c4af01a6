"""From the bytes of one file to pixels, believing nothing the file says about itself.

The structure of the PNG file is checked before anything is inflated, so that a picture of 30,000 by
30,000 pixels costs no more than its header.
"""

import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from captcha_assets.dataset import HEIGHT, WIDTH
from captcha_assets.images.rejection import Reason, Rejection

__all__ = ["Decoded", "Reason", "Rejection", "decode"]

Pixels = npt.NDArray[np.uint8]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_CRC = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_IMAGES = (
    (b"\xff\xd8\xff", "JPEG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"\0\0\1\0", "ICO"), (b"qoif", "QOI"), (b"\x8aMNG", "MNG"), (b"%PDF", "PDF"), (b"\xff\x0a", "JPEG XL"),
    (b"P5", "PGM"), (b"P6", "PPM"), (b"<svg", "SVG"), (b"\0\0\0\x0cjP  ", "JPEG 2000"),
)  # fmt: skip
_ARCHIVES = (
    (b"PK\3\4", "zip"), (b"\x1f\x8b", "gzip"), (b"Rar!", "RAR"), (b"7z\xbc\xaf", "7-Zip"),
    (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"),
)  # fmt: skip


class Decoded(NamedTuple):
    """An image as the platform uses it.

    Attributes:
        pixels: uint8 (52, 32), 0 black.
        source_mode: as found in the file: "L" (8-bit grayscale, the norm), "1", "L2" or "L4"
            (fewer bits), "LA", "P", "RGB" or "RGBA". Anything but "L" was converted.
    """

    pixels: Pixels
    source_mode: str


def decode(data: bytes) -> Decoded:
    """Decode a PNG file of 32 by 52 pixels to grayscale.

    Colour is converted with the weights of ITU-R 601, which leaves gray as it is; an alpha channel is
    dropped where every pixel is opaque. Interlaced files are read, metadata is ignored.

    Raises:
        Rejection: the file is not such an image; nothing is repaired or guessed.
    """
    mode = _check_structure(data)
    image: Pixels | None = cv2.imdecode(  # type: ignore[assignment]
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
    )
    if image is None or image.dtype != np.uint8 or image.shape[:2] != (HEIGHT, WIDTH):
        raise Rejection(Reason.CORRUPT, "its pixel data is damaged or ends early")
    return Decoded(image if image.ndim == 2 else _to_gray(image), mode)


def _to_gray(image: Pixels) -> Pixels:
    if image.shape[2] == 4:
        if image[..., 3].min() < 255:
            raise Rejection(Reason.TRANSPARENT, "is partly transparent: what lies behind is not known")
        image = image[..., :3]
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _check_structure(data: bytes) -> str:
    """Walk the file's chunks; return its mode."""
    if not data.startswith(_SIGNATURE):
        raise _not_png(data)
    mode = ""
    kind = b""
    pixels = False
    place = len(_SIGNATURE)
    end = len(data)
    while kind != b"IEND":
        if place + 12 > end:
            raise Rejection(Reason.CORRUPT, "ends early: a chunk is missing")
        length, kind = _CHUNK.unpack_from(data, place)
        body = place + 8
        place = body + length + 4
        if place > end:
            raise Rejection(Reason.CORRUPT, "ends early: a chunk is cut off")
        if zlib.crc32(data[body - 4 : body + length]) != _CRC.unpack_from(data, body + length)[0]:
            raise Rejection(Reason.CORRUPT, f"the checksum of chunk {_printable(kind)} is wrong")
        if not mode:
            mode = _check_header(kind, data[body : body + length])
        elif kind == b"acTL":
            raise Rejection(Reason.ANIMATED, "is an animation, not one picture")
        pixels = pixels or kind == b"IDAT"
    if not pixels or place != end:
        detail = f"has {end - place} bytes after its end" if pixels else "holds no pixel data"
        raise Rejection(Reason.CORRUPT, detail)
    return mode


def _check_header(kind: bytes, body: bytes) -> str:
    if kind != b"IHDR" or len(body) != _HEADER.size:
        raise Rejection(Reason.CORRUPT, "does not begin with a PNG header")
    width, height, depth, colour, *_ = _HEADER.unpack(body)
    if (width, height) != (WIDTH, HEIGHT):
        raise Rejection(Reason.WRONG_SIZE, f"is {width}x{height} pixels, not {WIDTH}x{HEIGHT}")
    if depth == 16:
        raise Rejection(Reason.SIXTEEN_BIT, "has 16 bits a channel, not 8")
    if colour not in _MODES or depth not in {1, 2, 4, 8}:
        raise Rejection(
            Reason.CORRUPT, f"has colour type {colour} with {depth} bits, which PNG does not know"
        )
    if colour == 0 and depth < 8:
        return {1: "1", 2: "L2", 4: "L4"}[depth]
    return _MODES[colour]


def _not_png(data: bytes) -> Rejection:
    if not data:
        return Rejection(Reason.EMPTY, "is empty")
    for magic, name in _ARCHIVES:
        if data.startswith(magic):
            return Rejection(Reason.NESTED_ARCHIVE, f"is a {name} archive: deliver it by itself")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Rejection(Reason.UNSUPPORTED_FORMAT, "is a WebP file, not PNG")
    if data[4:8] == b"ftyp":
        return Rejection(Reason.UNSUPPORTED_FORMAT, "is an AVIF or HEIC file, not PNG")
    for magic, name in _IMAGES:
        if data.startswith(magic):
            return Rejection(Reason.UNSUPPORTED_FORMAT, f"is a {name} file, not PNG")
    return Rejection(Reason.NOT_AN_IMAGE, f"is not an image: it begins with {data[:8]!r}")


def _printable(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
