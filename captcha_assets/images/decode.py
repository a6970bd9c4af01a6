"""From the bytes of one file to pixels, trusting nothing that the file says about itself.

The structure of the file is checked before anything is inflated, so that an image of 30,000 by 30,000 pixels
costs no more than its header, and one with more pixel data than its size needs no more than its size.
"""

import re
import struct
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.rejection import Reason, Rejection

__all__ = ["Decoded", "Reason", "Rejection", "decode"]

Pixels = npt.NDArray[np.uint8]

#: Pixels that an image of another size may have where such images are resized.
PIXEL_LIMIT = 1 << 25
#: Scans of a progressive JPEG file: each goes over all pixels, and ten are usual.
SCAN_LIMIT = 64

_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK = struct.Struct(">I4s")
_CRC = struct.Struct(">I")
_HEADER = struct.Struct(">IIBBBBB")
#: Channels by colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: The seven passes of an interlaced image (Adam7): first column, first row, distance of columns and of rows.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Most bytes that are inflated at once, and that come out.
_COMPRESSED, _INFLATED = 1 << 16, 1 << 20
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_JPEG = b"\xff\xd8\xff"
_FRAME = struct.Struct(">BHHB")
_JPEG_MODES = {1: "L", 3: "RGB"}
#: Ends the compressed data of a scan: any marker but a restart, and no stuffed 0xff.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_IMAGES = (
    (_PNG, "PNG"), (_JPEG, "JPEG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"),
    (b"\0\0\1\0", "ICO"), (b"qoif", "QOI"), (b"\x8aMNG", "MNG"), (b"%PDF", "PDF"), (b"\xff\x0a", "JPEG XL"),
    (b"P5", "PGM"), (b"P6", "PPM"), (b"<svg", "SVG"), (b"\0\0\0\x0cjP  ", "JPEG 2000"),
)  # fmt: skip
_ARCHIVES = (
    (b"PK\3\4", "zip"), (b"\x1f\x8b", "gzip"), (b"Rar!", "RAR"), (b"7z\xbc\xaf", "7-Zip"),
    (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2"), (b"\x28\xb5\x2f\xfd", "zstd"),
)  # fmt: skip
_NAMES = {"png": "PNG", "jpeg": "JPEG"}


class Decoded(NamedTuple):
    """An image as the platform uses it.

    Attributes:
        pixels: uint8, of the data set's shape: (height, width), 0 black, or (height, width, 3) in RGB.
        source_mode: as found in the file: "L" (8-bit grayscale), "1", "L2" or "L4" (fewer bits), "LA", "P",
            "RGB" or "RGBA". Anything but the data set's own mode was converted.
    """

    pixels: Pixels
    source_mode: str


class _Header(NamedTuple):
    """What a file says about its image."""

    width: int
    height: int
    mode: str


def decode(data: bytes, spec: DatasetSpec) -> Decoded:
    """Decode a PNG or JPEG file to an image of a data set.

    Colour becomes gray with the weights of ITU-R 601, which leave gray as it is; an alpha channel is dropped
    where every pixel is opaque. Interlaced files are read; metadata is ignored, an orientation too. An image
    of another size is resized where the data set says so: by area where it shrinks, else linearly.

    Raises:
        Rejection: the file is not such an image; nothing is repaired or guessed.
    """
    header, data = _check_structure(data, spec)
    image: Pixels | None = cv2.imdecode(  # type: ignore[assignment]
        np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
    )
    if image is None or image.dtype != np.uint8 or image.shape[:2] != (header.height, header.width):
        raise Rejection(Reason.CORRUPT, "its pixel data is damaged or ends early")
    if image.ndim == 3 or spec.channels == 3:
        image = _with_channels(image, spec.channels)
    if image.shape[:2] != (spec.height, spec.width):
        image = _resized(image, spec)
    return Decoded(image, header.mode)


def _with_channels(image: Pixels, channels: int) -> Pixels:
    """Return what OpenCV decoded (gray, BGR or BGRA) in gray or in RGB."""
    if image.ndim == 2:
        return image if channels == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
    if image.shape[2] == 4:
        if image[..., 3].min() < 255:
            raise Rejection(Reason.TRANSPARENT, "is partly transparent: what lies behind is not known")
        image = image[..., :3]
    conversion = cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, conversion), np.uint8)


def _check_size(header: _Header, spec: DatasetSpec) -> None:
    """Accept the size of an image that differs from the data set's, if it may be resized."""
    size = f"{header.width}x{header.height} pixels"
    if spec.other_sizes == "reject":
        raise Rejection(Reason.WRONG_SIZE, f"is {size}, not {spec.size}")
    if not 0 < header.width * header.height <= PIXEL_LIMIT:
        raise Rejection(Reason.WRONG_SIZE, f"is {size}: 1 to {PIXEL_LIMIT:,} pixels can be resized")


def _resized(image: Pixels, spec: DatasetSpec) -> Pixels:
    wanted = spec.width, spec.height
    shrinks = image.shape[1] >= wanted[0] and image.shape[0] >= wanted[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, wanted, interpolation=how), np.uint8)


def _check_structure(data: bytes, spec: DatasetSpec) -> tuple[_Header, bytes]:
    """Return what the header says, and the file as it is given to the decoder."""
    if "png" in spec.formats and data.startswith(_PNG):
        return _check_png(data, spec)
    if "jpeg" in spec.formats and data.startswith(_JPEG):
        return _check_jpeg(data, spec), data
    raise _not_read(data, " or ".join(_NAMES[name] for name in spec.formats))


def _check_png(data: bytes, spec: DatasetSpec) -> tuple[_Header, bytes]:
    """Walk the file's chunks; return what its header says, and the file without its metadata.

    The decoder would inflate metadata, and print on the console what is wrong with it.
    """
    header: _Header | None = None
    kind = b""
    needed = 0
    pixels: list[bytes] = []
    position = len(_PNG)
    kept = [slice(0, position)]
    end = len(data)
    while kind != b"IEND":
        if position + 12 > end:
            raise Rejection(Reason.CORRUPT, "ends early: a chunk is missing")
        length, kind = _CHUNK.unpack_from(data, position)
        body = position + 8
        position = body + length + 4
        if position > end:
            raise Rejection(Reason.CORRUPT, "ends early: a chunk is cut off")
        if zlib.crc32(data[body - 4 : body + length]) != _CRC.unpack_from(data, body + length)[0]:
            raise Rejection(Reason.CORRUPT, f"the checksum of chunk {_printable(kind)} is wrong")
        if header is None:
            header = _png_header(kind, data[body : body + length], spec)
            needed = _inflated_size(data[body : body + length])
        elif kind == b"acTL":
            raise Rejection(Reason.ANIMATED, "is an animation, not a single image")
        elif kind == b"IDAT":
            pixels.append(data[body : body + length])
        if kind[:1].isupper() or kind == b"tRNS":  # what is not critical is metadata, transparency apart
            kept.append(slice(body - 8, position))
    if header is None or not pixels or position != end:
        detail = f"has {end - position} bytes after its end" if pixels else "holds no pixel data"
        raise Rejection(Reason.CORRUPT, detail)
    _check_pixel_data(b"".join(pixels), needed)
    return header, b"".join(data[chunk] for chunk in kept)


def _inflated_size(header: bytes) -> int:
    """Return the number of bytes that the pixel data of a PNG has once it is inflated."""
    width, height, depth, colour, *_, interlaced = _HEADER.unpack(header)
    bits = depth * _CHANNELS[colour]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    size = 0
    for first_column, first_row, columns_apart, rows_apart in passes:
        columns = max(0, -(-(width - first_column) // columns_apart))
        rows = max(0, -(-(height - first_row) // rows_apart))
        size += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return size


def _check_pixel_data(compressed: bytes, needed: int) -> None:
    """Check that the pixel data of a PNG is as long as the image needs, and no longer.

    libpng would inflate all that is there, and print on the console what is wrong with it.
    """
    try:
        size, is_more = _inflate(compressed, needed + 1)
    except zlib.error:
        size, is_more = 0, False
    if size < needed:
        raise Rejection(Reason.CORRUPT, "its pixel data is damaged or ends early")
    if size > needed or is_more:
        raise Rejection(Reason.CORRUPT, "holds more pixel data than its size needs")


def _inflate(compressed: bytes, most: int) -> tuple[int, bool]:
    """Return how many bytes come out, at most `most`, and whether bytes follow the end of the stream."""
    inflater = zlib.decompressobj()
    size = 0
    for start in range(0, len(compressed), _COMPRESSED):
        piece = compressed[start : start + _COMPRESSED]
        while size < most and not inflater.eof:
            wanted = min(_INFLATED, most - size)
            part = inflater.decompress(piece, wanted)
            size, piece = size + len(part), inflater.unconsumed_tail
            if len(part) < wanted:
                break
        if inflater.eof:
            return size, bool(inflater.unused_data) or start + _COMPRESSED < len(compressed)
    return size, False


def _png_header(kind: bytes, body: bytes, spec: DatasetSpec) -> _Header:
    if kind != b"IHDR" or len(body) != _HEADER.size:
        raise Rejection(Reason.CORRUPT, "does not begin with a PNG header")
    width, height, depth, colour, *_ = _HEADER.unpack(body)
    if (width, height) != (spec.width, spec.height):
        _check_size(_Header(width, height, ""), spec)
    if depth == 16:
        raise Rejection(Reason.SIXTEEN_BIT, "has 16 bits a channel, not 8")
    if colour not in _MODES or depth not in {1, 2, 4, 8}:
        raise Rejection(
            Reason.CORRUPT, f"has colour type {colour} with {depth} bits, which PNG does not know"
        )
    if colour == 0 and depth < 8:
        return _Header(width, height, {1: "1", 2: "L2", 4: "L4"}[depth])
    return _Header(width, height, _MODES[colour])


def _check_jpeg(data: bytes, spec: DatasetSpec) -> _Header:
    """Walk the file's segments to its end; return what its frame says.

    What follows the end is ignored: cameras put previews there.
    """
    header: _Header | None = None
    position, scans = 2, 0
    while True:
        marker, body, position = _segment(data, position)
        if marker in _FRAMES and header is None:
            header = _jpeg_header(body, spec)
        if marker == _START_OF_SCAN:
            scans += 1
            found = _MARKER.search(data, position)
            if header is None or found is None or scans > SCAN_LIMIT:
                detail = f"has more than {SCAN_LIMIT} scans" if found else "ends early: its end is missing"
                raise Rejection(Reason.CORRUPT, detail if header else "does not say its size")
            position = found.start()
        if marker == _END_OF_IMAGE:
            if header is None or not scans:
                raise Rejection(Reason.CORRUPT, "holds no pixel data")
            return header


def _segment(data: bytes, position: int) -> tuple[int, bytes, int]:
    """Return the marker of the segment at `position`, its body, and where the next one begins."""
    while data[position : position + 2] == b"\xff\xff":  # fill bytes
        position += 1
    if len(data) < position + 2:
        raise Rejection(Reason.CORRUPT, "ends early: its end is missing")
    if data[position] != 0xFF:
        raise Rejection(Reason.CORRUPT, "holds bytes between its segments")
    marker = data[position + 1]
    if marker == _END_OF_IMAGE:
        return marker, b"", position + 2
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise Rejection(Reason.CORRUPT, "ends early: a segment is cut off")
    return marker, data[position + 4 : end], end


def _jpeg_header(body: bytes, spec: DatasetSpec) -> _Header:
    if len(body) < _FRAME.size:
        raise Rejection(Reason.CORRUPT, "does not say its size")
    depth, height, width, components = _FRAME.unpack_from(body)
    if (width, height) != (spec.width, spec.height):
        _check_size(_Header(width, height, ""), spec)
    if depth != 8:
        raise Rejection(Reason.SIXTEEN_BIT, f"has {depth} bits a channel, not 8")
    if components not in _JPEG_MODES:
        raise Rejection(
            Reason.UNSUPPORTED_FORMAT, f"has {components} colour channels (CMYK?), not 1 or 3: save it as RGB"
        )
    return _Header(width, height, _JPEG_MODES[components])


def _not_read(data: bytes, wanted: str) -> Rejection:
    if not data:
        return Rejection(Reason.EMPTY, "is empty")
    for magic, name in _ARCHIVES:
        if data.startswith(magic):
            return Rejection(Reason.NESTED_ARCHIVE, f"is a {name} archive: deliver it by itself")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Rejection(Reason.UNSUPPORTED_FORMAT, f"is a WebP file, not {wanted}")
    if data[4:8] == b"ftyp":
        return Rejection(Reason.UNSUPPORTED_FORMAT, f"is an AVIF or HEIC file, not {wanted}")
    for magic, name in _IMAGES:
        if data.startswith(magic):
            return Rejection(Reason.UNSUPPORTED_FORMAT, f"is a {name} file, not {wanted}")
    return Rejection(Reason.NOT_AN_IMAGE, f"is not an image: it begins with {_beginning(data)}")


def _beginning(data: bytes) -> str:
    """Return the first eight bytes in words: as text where they are text."""
    start = data[:8]
    words = " ".join(start.decode("latin-1").split())
    return (
        f'the text "{words}"'
        if words.isascii() and words.isprintable() and words
        else f"the bytes {start.hex(' ')}"
    )


def _printable(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")
