"""Images that the model predicts once, undisturbed and disturbed; days are drawn from them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import Statistics
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.quality.drift import STATISTICS, sharpness
from captcha_assets.sources.kaptcha_renderer import FACES, LENGTH, Face, Faces
from captcha_assets.sources.synthetic_batches import generate

#: Seeds of the generator; the model is trained on seed 0.
_SEED, _SEED_OF_THE_FONT = 101, 102
UNDISTURBED, NEW_FONT, INVERSE = "undisturbed", "new font", "inverse"

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """Images, `LENGTH` in a row from each drawn image."""

    labels: np.ndarray
    statistics: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Pool":
        return Pool(self.labels[rows], self.statistics[rows], self.probabilities[rows], self.features[rows])


def _brighter(by: float) -> Change:
    return lambda images: _pixels(images.astype(np.float32) + by)


def _blurred(sigma: float) -> Change:
    return lambda images: np.stack([cv2.GaussianBlur(image, (0, 0), sigma) for image in images])


def _noisy(sigma: float) -> Change:
    noise = np.random.default_rng(7)
    return lambda images: _pixels(images + noise.normal(0, sigma, images.shape))


def _pixels(images: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


#: Disturbances of every image of a day, by name and strength.
CHANGES: Mapping[str, Mapping[str, Change]] = {
    "brightness": {f"+{by}": _brighter(by) for by in (5, 10, 20, 40)},
    "blur": {f"sigma {sigma}": _blurred(sigma) for sigma in (0.4, 0.6, 0.8, 1.2)},
    "noise": {f"sigma {sigma}": _noisy(sigma) for sigma in (4, 8, 16, 32)},
}
#: A new font: one that no training image has.
_FACES = ((Face("DejaVuSerif-Bold"),), (Face("DejaVuSerif"),))


def pools(scratch: Path, model: Path, undisturbed: int, disturbed: int) -> dict[str, Pool]:
    """Return the pools by name; what was predicted before is read."""
    folder = scratch / f"{model.parent.name}-pools-{undisturbed}-{disturbed}"
    folder.mkdir(parents=True, exist_ok=True)
    extractor = FeatureExtractor(model)

    def pool(
        name: str,
        count: int,
        change: Change = lambda images: images,
        seed: int = _SEED,
        faces: Faces = FACES,
    ) -> Pool:
        path = folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **asdict(_predicted(extractor, count, change, seed, faces)))
        with np.load(path) as arrays:
            return Pool(**arrays)

    found = {UNDISTURBED: pool(UNDISTURBED, undisturbed)}
    for name, strengths in CHANGES.items():
        found |= {
            f"{name} {how}": pool(f"{name} {how}", disturbed, change) for how, change in strengths.items()
        }
    found[INVERSE] = pool(INVERSE, disturbed, lambda images: 255 - images)
    found[NEW_FONT] = pool(NEW_FONT, disturbed, seed=_SEED_OF_THE_FONT, faces=_FACES)
    return found


def _predicted(extractor: FeatureExtractor, count: int, change: Change, seed: int, faces: Faces) -> Pool:
    names, drawn = zip(*generate(count - count % LENGTH, seed, faces), strict=True)
    images = change(np.stack(drawn))
    probabilities, features = extractor.extract(images)
    found = Statistics(images)
    logged = np.column_stack([getattr(found, name) for name in STATISTICS[:3]])
    statistics = np.column_stack([logged, sharpness(images, logged[:, 1])])
    labels = np.array([CAPTCHA.classes.index(name) for name in names])
    return Pool(labels, statistics, probabilities, features)
