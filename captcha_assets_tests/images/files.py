"""Files for the tests of this room: PNG by hand, archives by hand, honest and not."""

import struct
import zipfile
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from captcha_assets.sources.synthetic_batches import generate

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@cache
def characters(count: int, seed: int = 0) -> tuple[tuple[str, np.ndarray], ...]:
    """Generated images with their labels."""
    return tuple(generate(count, seed))


def encode(pixels: np.ndarray, extension: str = ".png") -> bytes:
    done, data = cv2.imencode(extension, pixels)
    assert done
    return data.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int = 32, height: int = 52, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def png(rows: bytes, *extra: bytes, head: bytes | None = None, end: bytes = chunk(b"IEND", b"")) -> bytes:
    """A PNG of raw scan lines (each with its filter byte), with extra chunks before the pixels."""
    return b"".join([SIGNATURE, head or header(), *extra, chunk(b"IDAT", zlib.compress(rows)), end])


def lines(pixels: np.ndarray) -> bytes:
    """Scan lines of unfiltered pixels."""
    flat = pixels.reshape(len(pixels), -1)
    return np.pad(flat, ((0, 0), (1, 0))).astype(np.uint8).tobytes()


def good_members(count: int = 4, seed: int = 0) -> dict[str, bytes]:
    return {
        f"Dataset/{label}_{n}.png": encode(image) for n, (label, image) in enumerate(characters(count, seed))
    }


class RawInfo(zipfile.ZipInfo):
    """A member whose name and flags are written as given, right or wrong."""

    def __init__(self, name: str, raw: bytes | None = None, flags: int = 0, **fields: int) -> None:
        super().__init__(name, (2024, 1, 1, 0, 0, 0))
        self.raw, self.extra_flags = raw, flags
        self.compress_type = zipfile.ZIP_DEFLATED
        for field, value in fields.items():
            setattr(self, field, value)

    def _encodeFilenameFlags(self):  # noqa: N802 - zipfile's own hook
        raw, flags = super()._encodeFilenameFlags()
        return (raw if self.raw is None else self.raw), flags | self.extra_flags


Members = dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]


def write_zip(path: Path, members: Members, comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
        archive.comment = comment
    return path


def patch_directory(path: Path, name: str, offset: int, value: int, form: str = "<I") -> None:
    """Overwrite a field of one member's record in the directory; the rest of the archive stays."""
    data = bytearray(path.read_bytes())
    place = data.rindex(name.encode()) - 46
    assert data[place : place + 4] == b"PK\1\2"
    struct.pack_into(form, data, place + offset, value)
    path.write_bytes(bytes(data))
