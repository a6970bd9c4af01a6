"""Everything that a member of a batch can have wrong with it, and the reason it is rejected for.

Each case is written for real into an archive, beside good images.
"""

import io
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from captcha_assets.images.rejection import Reason
from captcha_assets_tests.images.files import (
    SIGNATURE,
    RawInfo,
    characters,
    chunk,
    encode,
    header,
    lines,
    patch_directory,
    png,
)

PIXELS = characters(9)[8][1]
GOOD = encode(PIXELS)
COLOURED = np.repeat(PIXELS[..., None], 3, axis=2)
Members = list[tuple[str | zipfile.ZipInfo, bytes]]
Case = tuple[Reason, Members, Callable[[Path], None] | None]


def _pillow(mode: str, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, form, **options)
    return file.getvalue()


def _see_through() -> bytes:
    return encode(np.dstack([COLOURED, np.full(PIXELS.shape, 200, np.uint8)]))


def _animation() -> bytes:
    image = Image.fromarray(PIXELS)
    return _pillow("L", save_all=True, append_images=[image.rotate(10)], duration=100)


def _zip_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _broken_crc() -> bytes:
    broken = bytearray(GOOD)
    broken[-16] ^= 1
    return bytes(broken)


def _rename(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.rindex(b"b_9.png")  # in the directory, which comes last
    data[place : place + 1] = b"a"
    path.write_bytes(bytes(data))


def _said_size(size: int, form: str = "<I", offset: int = 24) -> Callable[[Path], None]:
    return lambda path: patch_directory(path, "a_9.png", offset, size, form)


def _one(reason: Reason, data: bytes, name: str | zipfile.ZipInfo = "a_9.png") -> Case:
    return reason, [(name, data)], None


LINK = (stat.S_IFLNK | 0o777) << 16
PIPE = (stat.S_IFIFO | 0o666) << 16
SCAN = lines(PIXELS)
HUGE_HEAD = header(30_000, 30_000)

CASES: dict[str, Case] = {
    # names
    "path traversal": _one(Reason.UNSAFE_PATH, GOOD, "../../a_9.png"),
    "path traversal in the middle": _one(Reason.UNSAFE_PATH, GOOD, "Dataset/../../a_9.png"),
    "absolute path": _one(Reason.UNSAFE_PATH, GOOD, "/etc/a_9.png"),
    "absolute path of Windows": _one(Reason.UNSAFE_PATH, GOOD, "C:/a_9.png"),
    "backslashes": _one(Reason.UNSAFE_PATH, GOOD, RawInfo("x", b"..\\a_9.png")),
    "control characters": _one(Reason.UNSAFE_PATH, GOOD, RawInfo("x", b"a\n_9.png")),
    "zero byte": _one(Reason.UNSAFE_PATH, GOOD, RawInfo("x", b"a_9.png\0.exe")),
    "endless path": _one(Reason.BAD_NAME, GOOD, "d/" * 3000 + "a_9.png"),
    "no name": _one(Reason.BAD_NAME, GOOD, RawInfo("x", b"")),
    "name in Latin-1": _one(Reason.NAME_NOT_UTF8, GOOD, RawInfo("x", b"\xe9t\xe9/a_9.png")),
    "name said to be UTF-8": _one(Reason.NAME_NOT_UTF8, GOOD, RawInfo("x", b"\xff\xfe/a_9.png", flags=0x800)),
    "name twice": (Reason.DUPLICATE_NAME, [("a_9.png", GOOD), (RawInfo("a_9.png"), GOOD)], None),
    "names that differ in case": (Reason.DUPLICATE_NAME, [("x/A_9.png", GOOD), ("x/a_9.png", GOOD)], None),
    # what the directory says
    "symbolic link": _one(
        Reason.SPECIAL_FILE, b"/etc/passwd", RawInfo("a_9.png", create_system=3, external_attr=LINK)
    ),
    "pipe": _one(Reason.SPECIAL_FILE, b"", RawInfo("a_9.png", create_system=3, external_attr=PIPE)),
    "encrypted member": _one(Reason.ENCRYPTED, GOOD, RawInfo("a_9.png", flags=1)),
    "encrypted with AES": (Reason.ENCRYPTED, [("a_9.png", GOOD)], _said_size(99, "<H", 10)),
    "nested archive": _one(Reason.NESTED_ARCHIVE, _zip_of({"a_9.png": GOOD}), "more.zip"),
    "nested archive in disguise": _one(Reason.NESTED_ARCHIVE, _zip_of({"a_9.png": GOOD})),
    "bzip2": _one(Reason.UNSUPPORTED_COMPRESSION, GOOD, RawInfo("a_9.png", compress_type=zipfile.ZIP_BZIP2)),
    "lzma": _one(Reason.UNSUPPORTED_COMPRESSION, GOOD, RawInfo("a_9.png", compress_type=zipfile.ZIP_LZMA)),
    "bomb": _one(Reason.TOO_LARGE, bytes(64 << 20)),
    "small bomb": _one(Reason.TOO_LARGE, bytes(1 << 20)),
    "large file": _one(Reason.TOO_LARGE, np.random.default_rng(0).bytes(2 << 20)),
    "bomb that says it is small": (Reason.CORRUPT, [("a_9.png", bytes(64 << 20))], _said_size(1500)),
    "larger than it says": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(len(GOOD) - 7)),
    "smaller than it says": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(len(GOOD) + 7)),
    "named differently in two places": (Reason.CORRUPT, [("b_9.png", GOOD)], _rename),
    "packed part cut off": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(40, offset=20)),
    "wrong checksum in the archive": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(1, offset=16)),
    "lies somewhere else": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(7, offset=42)),
    "lies beyond the end": (Reason.CORRUPT, [("a_9.png", GOOD)], _said_size(1 << 30, offset=42)),
    # not an image, or another kind
    "empty file": _one(Reason.EMPTY, b""),
    "text": _one(Reason.NOT_AN_IMAGE, b"not an image at all"),
    "random bytes": _one(Reason.NOT_AN_IMAGE, np.random.default_rng(1).bytes(1500)),
    "program": _one(Reason.NOT_AN_IMAGE, b"\x7fELF" + bytes(500)),
    "JPEG": _one(Reason.UNSUPPORTED_FORMAT, encode(PIXELS, ".jpg")),
    "BMP": _one(Reason.UNSUPPORTED_FORMAT, encode(PIXELS, ".bmp")),
    "WebP": _one(Reason.UNSUPPORTED_FORMAT, encode(COLOURED, ".webp")),
    "GIF": _one(Reason.UNSUPPORTED_FORMAT, _pillow("P", "GIF")),
    "TIFF": _one(Reason.UNSUPPORTED_FORMAT, _pillow("L", "TIFF")),
    "AVIF": _one(Reason.UNSUPPORTED_FORMAT, b"\0\0\0\x20ftypavif" + bytes(100)),
    "JPEG by its own name": _one(Reason.UNSUPPORTED_FORMAT, encode(PIXELS, ".jpg"), "a_9.jpg"),
    # PNG, but
    "signature alone": _one(Reason.CORRUPT, SIGNATURE),
    "cut in half": _one(Reason.CORRUPT, GOOD[: len(GOOD) // 2]),
    "no end": _one(Reason.CORRUPT, GOOD[:-12]),
    "bytes after the end": _one(Reason.CORRUPT, GOOD + b"more"),
    "broken CRC": _one(Reason.CORRUPT, _broken_crc()),
    "damaged pixels under a right CRC": _one(
        Reason.CORRUPT, SIGNATURE + header() + chunk(b"IDAT", b"\x78\x9c\xff\xff") + chunk(b"IEND", b"")
    ),
    "too few pixels": _one(Reason.CORRUPT, png(SCAN[:-33])),
    "64 MB too many pixels": _one(Reason.CORRUPT, png(SCAN + bytes(64 << 20))),
    "one pixel too many": _one(Reason.CORRUPT, png(SCAN + b"\0")),
    "bytes after the pixels": _one(
        Reason.CORRUPT,
        SIGNATURE + header() + chunk(b"IDAT", zlib.compress(SCAN) + b"more") + chunk(b"IEND", b""),
    ),
    "no pixels": _one(Reason.CORRUPT, SIGNATURE + header() + chunk(b"IEND", b"")),
    "no header": _one(Reason.CORRUPT, SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b"")),
    "unknown filter": _one(Reason.CORRUPT, png(b"\x09" + SCAN[1:])),
    "unknown colour type": _one(Reason.CORRUPT, png(SCAN, head=header(colour=5))),
    "palette without colours": _one(Reason.CORRUPT, png(SCAN, head=header(colour=3))),
    "chunk longer than the file": _one(Reason.CORRUPT, GOOD[:33] + b"\x7f\xff\xff\xff" + GOOD[37:]),
    "16-bit": _one(Reason.SIXTEEN_BIT, encode(PIXELS.astype(np.uint16) * 257)),
    "animation": _one(Reason.ANIMATED, _animation()),
    "see-through": _one(Reason.TRANSPARENT, _see_through()),
    "1x1": _one(Reason.WRONG_SIZE, encode(PIXELS[:1, :1])),
    "0x0": _one(Reason.WRONG_SIZE, png(b"", head=header(0, 0))),
    "wrong size": _one(Reason.WRONG_SIZE, encode(PIXELS[:50])),
    "on its side": _one(Reason.WRONG_SIZE, encode(PIXELS.T.copy())),
    "30,000x30,000": _one(Reason.WRONG_SIZE, png(bytes(900_000_000 // 1000), head=HUGE_HEAD)),
    # an image, but
    "all white": _one(Reason.BLANK, encode(np.full((52, 32), 255, np.uint8))),
    "all black": _one(Reason.BLANK, encode(np.zeros((52, 32), np.uint8))),
    "label outside the alphabet": _one(Reason.BAD_LABEL, GOOD, "z_9.png"),
    "label in upper case": _one(Reason.BAD_LABEL, GOOD, "A_9.png"),
    "no label": _one(Reason.BAD_LABEL, GOOD, "9.png"),
    "label in a foreign script": _one(Reason.BAD_LABEL, GOOD, "\u0430_9.png"),
}

#: Unusual, and usable: mode as recorded.
ACCEPTED: dict[str, tuple[str, bytes]] = {
    "8-bit gray": ("L", GOOD),
    "RGB": ("RGB", encode(COLOURED)),
    "RGBA, opaque": ("RGBA", encode(np.dstack([COLOURED, np.full(PIXELS.shape, 255, np.uint8)]))),
    "gray with opaque alpha": ("LA", _pillow("LA")),
    "palette": ("P", _pillow("P")),
    "interlaced": ("L", b""),  # filled in below: no library at hand writes it
    "metadata": ("L", png(SCAN, chunk(b"tEXt", b"Comment\0hello"), chunk(b"pHYs", bytes(9)))),
    "pixels in many chunks": ("L", b""),
}


def _interlaced() -> bytes:
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = b"".join(lines(PIXELS[top::down, left::across]) for top, left, down, across in passes)
    return png(rows, head=header(interlace=1))


def _split_pixels() -> bytes:
    data = zlib.compress(SCAN)
    parts = b"".join(chunk(b"IDAT", data[start : start + 100]) for start in range(0, len(data), 100))
    return SIGNATURE + header() + parts + chunk(b"IEND", b"")


ACCEPTED["interlaced"] = ("L", _interlaced())
ACCEPTED["pixels in many chunks"] = ("L", _split_pixels())
