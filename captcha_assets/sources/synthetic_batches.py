"""The built-in generator of CAPTCHA characters, and of nothing else: single characters as Kaptcha draws them.

The same count and seed give the same archive, byte for byte, on any machine: images are drawn by
integer arithmetic (`kaptcha`), chance is numpy's PCG64 seeded by image, and the PNG files
hold their pixels uncompressed, since no two builds of zlib promise the same compressed bytes. The first
`n` images of a longer archive are the images of the shorter one.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import count as count_up
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import replacing
from captcha_assets.dataset import CAPTCHA, DatasetSpec
from captcha_assets.sources.kaptcha_renderer import FACES, LENGTH, Faces, cut, draw

#: Kaptcha's alphabet, in which n stands twice.
_ALPHABET = (*CAPTCHA.classes, "n")


class GeneratorError(ValueError):
    """A request that the generator cannot fulfil."""


def check_drawn(spec: DatasetSpec) -> None:
    """Accept a data set that takes every image that the generator draws.

    Raises:
        GeneratorError: its classes, image size or file names are others; the message says which.
    """
    problem = None
    if not set(CAPTCHA.classes) <= set(spec.classes):
        problem = f"its classes are {spec.classes_in_words}"
    elif spec.size != CAPTCHA.size and spec.other_sizes == "reject":
        problem = f"its images are {spec.size}"
    elif "png" not in spec.formats or spec.label_from != "file_name":
        problem = f"its files are named {spec.layout}"
    if problem:
        raise GeneratorError(
            f"the generator draws {CAPTCHA.name} only ({CAPTCHA.classes_in_words}, {CAPTCHA.size}, "
            f"{CAPTCHA.layout}), and the data set {spec.name} rejects them: {problem}; give a zip or a "
            "folder of its images"
        )


def _stream(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


def _labels(seed: int) -> Iterator[str]:
    """Yield characters without end: the whole alphabet again and again, each time shuffled."""
    for turn in count_up():
        yield from _stream(seed, 0, turn).permutation(_ALPHABET).tolist()


def render(label: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return one character among random neighbours, uint8 (52, 32).

    Raises:
        GeneratorError: the label is not one of the data set's classes.
    """
    if label not in CAPTCHA.classes:
        raise GeneratorError(f"no character for label {label!r}: it is not one of {CAPTCHA.classes_in_words}")
    word = [_ALPHABET[i] for i in rng.integers(len(_ALPHABET), size=LENGTH)]
    position = int(rng.integers(LENGTH))
    word[position] = label
    image: NDArray[np.uint8] = _cut("".join(word), rng)[position]
    return image


def _cut(word: str, rng: np.random.Generator, faces: Faces = FACES) -> NDArray[Any]:
    image, spans = draw(word, rng, faces)
    return cut(image, word, spans, rng)


def generate(count: int, seed: int = 0, faces: Faces = FACES) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield `count` labelled images, five from each image: (label, uint8 (52, 32)).

    Every 21 images hold all classes, n twice.

    Args:
        count: number of images.
        seed: another seed gives other images.
        faces: what letters look like; other ones than Kaptcha's make images of another look.

    Raises:
        GeneratorError: the count or the seed is negative.
    """
    if count < 0 or seed < 0:
        raise GeneratorError(f"cannot generate {count} images from seed {seed}: neither may be negative")
    return islice(_endless(seed, faces), count)


def _endless(seed: int, faces: Faces) -> Iterator[tuple[str, NDArray[Any]]]:
    labels = _labels(seed)
    for image in count_up():
        word = list(islice(labels, LENGTH))
        rng = _stream(seed, 1, image)
        yield from zip(word, _cut("".join(word), rng, faces), strict=True)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


_HEADER = b"\x89PNG\r\n\x1a\n" + _chunk(
    b"IHDR", struct.pack(">IIBBBBB", CAPTCHA.width, CAPTCHA.height, 8, 0, 0, 0, 0)
)
_END = _chunk(b"IEND", b"")


def _png(image: NDArray[Any]) -> bytes:
    """Return an image as a grayscale PNG whose pixels are in one stored block, about 1.8 KB."""
    lines = np.pad(image, ((0, 0), (1, 0))).tobytes()  # a leading 0 in each line: not filtered
    size = struct.pack("<HH", len(lines), len(lines) ^ 0xFFFF)
    stream = b"\x78\x01\x01" + size + lines + struct.pack(">I", zlib.adler32(lines))
    return _HEADER + _chunk(b"IDAT", stream) + _END


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(2024, 1, 1, 0, 0, 0))
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def write_archive(target: Path, count: int, seed: int = 0) -> None:
    """Write `count` images as a zip with members `Dataset/<label>_<n>.png`, complete or not at all.

    The encoded images, 1.8 KB each, are held in memory while they are sorted by name.

    Args:
        target: the zip file; replaced if it is there.
        count: number of images.
        seed: another seed gives other images.

    Raises:
        GeneratorError: the count is not positive, or the seed is negative.
    """
    if count < 1:
        raise GeneratorError(f"an archive of {count} images cannot be generated: ask for one or more")
    numbered = enumerate(generate(count, seed))
    members = sorted((f"Dataset/{label}_{n}.png", _png(image)) for n, (label, image) in numbered)
    with replacing(target) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            archive.writestr(_member(name), data)
