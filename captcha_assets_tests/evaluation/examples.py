"""Predictions of models that do not exist, as skilled as one likes."""

import numpy as np

from captcha_assets.evaluation.metrics import Metrics, compute_metrics
from captcha_assets.evaluation.mistakes import Mistake

CLASSES = ("a", "b", "c", "d")


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def made_up(
    seed: int = 0, n: int = 400, classes: tuple[str, ...] = CLASSES, skill: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a model that is right the more often the more skilled it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(size=(n, len(classes))) + skill * np.eye(len(classes))[labels]
    return softmax(logits), labels


def measured(**how: object) -> Metrics:
    return compute_metrics(*made_up(**how), how.get("classes", CLASSES))


def some_mistakes(count: int, seed: int = 0) -> list[Mistake]:
    rng = np.random.default_rng(seed)
    return [
        Mistake(
            image_id=rng.bytes(16).hex(),
            label="a",
            predicted="b",
            probability=1 - index / 1000,
            batch=f"batch-{index % 2}",
            pixels=rng.integers(0, 256, (52, 32), np.uint8),
        )
        for index in range(count)
    ]
