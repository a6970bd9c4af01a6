"""How close generated images are to real ones: `python -m benchmarks.generator [--help]`.

Writes a contact sheet, real characters at the left and generated ones at the right, and prints how many
images a second are generated. How well a model that is trained on them reads real ones:
`python -m benchmarks.accuracy --generated-only`. Real images are looked for in `../shared/data`.
"""

import argparse
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from benchmarks import results
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.sources.synthetic_batches import generate

ROOT = Path(__file__).resolve().parents[2]
Images = tuple[np.ndarray, np.ndarray]  # uint8 (n, 52, 32), class numbers (n,)


def _labelled(pairs: Iterable[tuple[str, np.ndarray]]) -> Images:
    labels, images = zip(*pairs, strict=True)
    return np.stack(images), np.array([CAPTCHA.classes.index(label) for label in labels])


def _decoded(name: str, data: bytes) -> tuple[str, np.ndarray]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None, f"{name} cannot be decoded"
    return CAPTCHA.label_of(name), image


def real_characters(place: Path) -> Images:
    """The characters cut from public Kaptcha pictures."""
    with zipfile.ZipFile(place) as archive:
        return _labelled(_decoded(n, archive.read(n)) for n in archive.namelist() if n.endswith(".png"))


def _tiles(images: np.ndarray, columns: int) -> np.ndarray:
    tiles = np.full((columns, CAPTCHA.height + 2, CAPTCHA.width + 2), 255, np.uint8)
    tiles[: len(images[:columns]), 1:-1, 1:-1] = images[:columns]
    return np.hstack(list(tiles))


def contact_sheet(real: Images | None, generated: Images, columns: int = 16) -> np.ndarray:
    """A row a class: real at the left (blank where there is none), generated at the right."""
    rows = []
    for number in range(len(CAPTCHA.classes)):
        left = real[0][real[1] == number] if real else np.empty((0, CAPTCHA.height, CAPTCHA.width), np.uint8)
        right = generated[0][generated[1] == number]
        gap = np.full((CAPTCHA.height + 2, 12), 128, np.uint8)
        rows.append(np.hstack([_tiles(left, columns), gap, _tiles(right, columns)]))
    return np.vstack(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__)
    parser.add_argument("--images", type=int, default=4200, help="how many to generate (4,200)")
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / ".scratch" / "benchmarks" / "generator")
    results.add_option(parser)
    return parser.parse_args()


def main() -> None:
    options = _options()
    recording = Recording("benchmarks.generator", ("matplotlib", "numpy", "opencv-python-headless"))
    options.output.mkdir(parents=True, exist_ok=True)
    archive = options.real / "kaptcha_characters.zip"
    start = time.process_time()
    generated = _labelled(generate(options.images))
    speed = len(generated[1]) / (time.process_time() - start)
    sheet = options.output / "contact_sheet.png"
    cv2.imwrite(str(sheet), contact_sheet(real_characters(archive) if archive.exists() else None, generated))
    if not archive.exists():
        print(f"no real characters at {archive}: generated ones alone")
    print(f"{sheet}\n{speed:,.0f} images/s on one core")
    recording.claim("speed", "characters generated on one core", speed, "images/s", better="more")
    recording.write(options.result)


if __name__ == "__main__":
    main()
