"""Small batches in the platform's own tables: drawn characters, nothing from outside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from captcha_assets.dataset import CAPTCHA
from captcha_assets.training.config import TrainingJob, TrainingSettings


def draw(label: str, rng: np.random.Generator) -> np.ndarray:
    """A dark character on a light ground, moved, sized and grained by chance: uint8 (52, 32)."""
    image = np.full(CAPTCHA.shape, int(rng.integers(200, 256)), np.uint8)
    corner = (int(rng.integers(1, 7)), int(rng.integers(36, 45)))
    font, size = cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.9, 1.2))
    cv2.putText(image, label, corner, font, size, int(rng.integers(0, 60)), 2, cv2.LINE_AA)
    grain = rng.normal(0, 8, image.shape)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def draw_many(
    count: int, seed: int = 0, classes: Sequence[str] = CAPTCHA.classes
) -> tuple[np.ndarray, list[str]]:
    """`count` images (N, 52, 32) and their labels, classes in turn."""
    rng = np.random.default_rng(seed)
    labels = [classes[index % len(classes)] for index in range(count)]
    return np.stack([draw(label, rng) for label in labels]), labels


def write_table(path: Path, batch: str, images: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Write the columns of an image table that readers need; returns the image ids."""
    ids = [xxhash.xxh3_128_hexdigest(image.tobytes()) for image in images]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image_id": ids,
        "batch": [batch] * len(ids),
        "member": [f"Dataset/{label}_{number}.png" for number, label in enumerate(labels)],
        "label": list(labels),
        "pixels": [image.tobytes() for image in images],
    }
    pq.write_table(pa.table(columns), path, row_group_size=97)
    return ids


def write_splits(path: Path, ids: Sequence[str], labels: Sequence[str], batches: Sequence[str]) -> None:
    """Place images 70/20/10 by position, as the splits table holds them."""
    names = ["train"] * 7 + ["validation"] * 2 + ["test"]
    splits = [names[(index // len(CAPTCHA.classes)) % 10] for index in range(len(ids))]
    columns = {
        "image_id": list(ids),
        "label": list(labels),
        "group": list(ids),
        "split": splits,
        "exclusion_reason": pa.nulls(len(ids), pa.string()),
        "batch": list(batches),
    }
    pq.write_table(pa.table(columns), path)


def write_batch(folder: Path, count: int = 400, seed: int = 0) -> tuple[list[Path], Path]:
    """One batch of drawn characters: the image tables and the splits table."""
    images, labels = draw_many(count, seed)
    table, splits = folder / "image_table" / "drawn.parquet", folder / "splits.parquet"
    ids = write_table(table, "drawn", images, labels)
    write_splits(splits, ids, labels, ["drawn"] * len(ids))
    return [table], splits


def job_on(
    batch: tuple[Sequence[Path], Path], folder: Path, settings: TrainingSettings | None = None, **others: Any
) -> TrainingJob:
    """The job of a training on a batch that `write_batch` wrote; its model and checkpoints go to `folder`."""
    tables, splits = batch
    values = {
        "tables": tuple(tables),
        "splits": splits,
        "splits_version": "v1",
        "classes": CAPTCHA.classes,
        "image_shape": CAPTCHA.shape,
        "output": folder / "model",
        "checkpoints": folder / "checkpoints",
        "code_version": "c1",
        "settings": settings or TrainingSettings(),
    }
    return TrainingJob(**values | others)
