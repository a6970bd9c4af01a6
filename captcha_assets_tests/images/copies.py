"""Copies of images as they occur: what near-duplicate search must find."""

from collections.abc import Callable

import cv2
import numpy as np

Images = np.ndarray


def shifted(images: Images, down: int, across: int) -> Images:
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return padded[:, 1 + down : 53 + down, 1 + across : 33 + across]


def scaled(images: Images, factor: float = 1, offset: float = 0) -> Images:
    return np.clip(np.round(images.astype(float) * factor + offset), 0, 255).astype(np.uint8)


def reencoded(images: Images, quality: int = 80) -> Images:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return np.stack([cv2.imdecode(cv2.imencode(".jpg", image, options)[1], 0) for image in images])


def noisy(images: Images, sigma: float = 6) -> Images:
    return scaled(images, offset=np.random.default_rng(0).normal(0, sigma, images.shape))


def resized(images: Images, factor: float = 2) -> Images:
    def there_and_back(image: Images) -> Images:
        return cv2.resize(cv2.resize(image, None, fx=factor, fy=factor), (32, 52))

    return np.stack([there_and_back(image) for image in images])


COPIES: dict[str, Callable[[Images], Images]] = {
    "left": lambda images: shifted(images, 0, 1),
    "down": lambda images: shifted(images, -1, 0),
    "across a corner": lambda images: shifted(images, 1, -1),
    "brighter": lambda images: scaled(images, offset=20),
    "darker": lambda images: scaled(images, offset=-20),
    "less contrast": lambda images: scaled(images, 0.8, 20),
    "as JPEG": reencoded,
    "noise": noisy,
    "resized and back": resized,
}
