"""The curve behind the near-duplicate threshold: `python -m benchmarks.ingest.duplicates`.

Plants copies of every image of a set, finds those that meet as the index does, and prints for rising
thresholds how many copies are found, kind by kind, and how many pairs of distinct images of one class are
taken for copies. Real characters are looked for in `../shared/data`.
"""

import argparse
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks import results
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.decode import decode
from captcha_assets.images.features import ACROSS, DOWN, descriptors, dhash, rounded, signatures
from captcha_assets.images.near_duplicates import correlations, distances, farthest_apart, smoothed
from captcha_assets.sources.synthetic_batches import generate

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "kaptcha_characters.zip"
THRESHOLDS = [0.95, 0.97, 0.98, 0.985, 0.99, 0.992, 0.994, 0.995, 0.996, 0.997, 0.998, 0.999]
#: What imagededup allows by default.
HASH_BITS = 10
Images = np.ndarray


def whole(images: np.ndarray) -> Images:
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


def moved(images: Images, down: int, across: int) -> Images:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return padded[:, 1 + down : 53 + down, 1 + across : 33 + across]


def jpeg(images: Images, quality: int) -> Images:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return np.stack([cv2.imdecode(cv2.imencode(".jpg", image, options)[1], 0) for image in images])


def resized(images: Images, factor: float) -> Images:
    return np.stack([cv2.resize(cv2.resize(i, None, fx=factor, fy=factor), (32, 52)) for i in images])


def noisy(images: Images, sigma: float) -> Images:
    return whole(images + np.random.default_rng(0).normal(0, sigma, images.shape))


KINDS: dict[str, Callable[[Images], Images]] = {
    "shift": lambda images: moved(images, 0, 1),
    "corner": lambda images: moved(images, 1, -1),
    "+20": lambda images: whole(images.astype(float) + 20),
    "-20": lambda images: whole(images.astype(float) - 20),
    "x 0.8": lambda images: whole(images * 0.8),
    "JPEG 80": lambda images: jpeg(images, 80),
    "JPEG 50": lambda images: jpeg(images, 50),
    "noise 6": lambda images: noisy(images, 6),
    "noise 10": lambda images: noisy(images, 10),
    "x 2 / 2": lambda images: resized(images, 2),
    "x 3/4": lambda images: resized(images, 0.75),
    "corner, noise": lambda images: noisy(moved(images, 1, 1), 6),
}


def agreement(one: Images, other: Images) -> np.ndarray:
    """How well the crops of each pair that meet agree at best; 0 where none meet."""
    described = np.stack([descriptors(one), descriptors(other)])
    cells, others = signatures(described[0]), signatures(described[1])
    stored = rounded(np.concatenate(described))
    smooth, smooth_others = smoothed(one), smoothed(other)
    best = np.zeros(len(one))
    for i in DOWN:
        for j in ACROSS:
            for first, second in ((i, j), (j, i)):
                meet = np.flatnonzero((cells[:, :, first] == others[:, :, second]).any(axis=1))
                crops = np.full(len(meet), first), np.full(len(meet), second)
                found = correlations(smooth[meet], crops[0], smooth_others[meet], crops[1])
                apart = distances(stored, meet, len(one) + meet, *crops)
                found[apart > [farthest_apart(value) for value in found]] = 0
                best[meet] = np.maximum(best[meet], found)
    return best


def distinct_pairs(images: Images, labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Agreement of all pairs of one class that meet, and the number of all pairs of one class."""
    found, total = [np.zeros(0)], 0
    for label in np.unique(labels):
        of_class = images[labels == label]
        one, other = np.triu_indices(len(of_class), 1)
        total += len(one)
        for start in range(0, len(one), 20_000):
            here = slice(start, start + 20_000)
            values = agreement(of_class[one[here]], of_class[other[here]])
            found.append(values[values > 0])
    return np.concatenate(found), total


def bits_apart(one: Images, other: Images) -> np.ndarray:
    """Return by how many of 64 bits the difference hashes of each pair differ."""
    return np.bitwise_count(np.asarray(dhash(one), np.uint64) ^ np.asarray(dhash(other), np.uint64))


def by_hash(images: Images, labels: np.ndarray) -> tuple[float, int]:
    """Return what a difference hash finds: the share of all copies, and the distinct pairs it mistakes."""
    copies = [(bits_apart(images, copy(images)) <= HASH_BITS).mean() for copy in KINDS.values()]
    mistaken = 0
    for label in np.unique(labels):
        of_class = images[labels == label]
        one, other = np.triu_indices(len(of_class), 1)
        mistaken += int((bits_apart(of_class[one], of_class[other]) <= HASH_BITS).sum())
    return float(np.mean(copies)), mistaken


def recorded(
    recording: Recording,
    name: str,
    found: dict[str, np.ndarray],
    distinct: np.ndarray,
    hashed: tuple[float, int],
) -> None:
    """Record what the index finds at its threshold, beside a difference hash."""
    threshold, other = (
        CAPTCHA.near_duplicate_correlation,
        f"a difference hash, {HASH_BITS} bits apart at most",
    )
    share = float(np.mean([(agreed >= threshold).mean() for agreed in found.values()]))
    recording.claim(
        f"copies of {name}", f"{name}: share of their copies of {len(KINDS)} kinds that are found", share, "",
        alternative=hashed[0], alternative_name=other, better="more",
    )  # fmt: skip
    recording.claim(
        f"mistaken of {name}", f"{name}: distinct pairs of a class taken for copies",
        int((distinct >= threshold).sum()), "pairs", alternative=hashed[1], alternative_name=other,
    )  # fmt: skip


def sets() -> Iterator[tuple[str, Images, np.ndarray]]:
    if REAL.exists():
        with zipfile.ZipFile(REAL) as archive:
            names = archive.namelist()
            images = np.stack([decode(archive.read(name), CAPTCHA).pixels for name in names])
        yield f"{len(names)} real characters", images, np.array([CAPTCHA.label_of(name) for name in names])
    labels, images = zip(*generate(2100, 7), strict=True)
    yield "2,100 generated characters", np.stack(images), np.array(labels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest.duplicates", description=__doc__)
    results.add_option(parser)
    options, recording = parser.parse_args(), Recording("benchmarks.ingest.duplicates", ("numpy",))
    for name, images, labels in sets():
        found = {kind: agreement(images, copy(images)) for kind, copy in KINDS.items()}
        distinct, total = distinct_pairs(images, labels)
        print(
            f"{name}: share of copies found; pairs taken for copies of {total:,} distinct pairs of one class"
        )
        print(f"{'threshold':>10}" + "".join(f"{kind:>14}" for kind in KINDS) + f"{'mistaken':>14}")
        for threshold in THRESHOLDS:
            shares = "".join(f"{(found[kind] >= threshold).mean():>14.4f}" for kind in KINDS)
            mark = " <" if threshold == CAPTCHA.near_duplicate_correlation else ""
            print(f"{threshold:>10}{shares}{(distinct >= threshold).sum():>14}{mark}")
        print(f"the most alike distinct pair: {distinct.max(initial=0):.4f}\n")
        recorded(recording, name, found, distinct, by_hash(images, labels))
    recording.write(options.result)


if __name__ == "__main__":
    main()
