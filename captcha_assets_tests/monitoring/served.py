"""A real model, its reference, and days that it served."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import polars as pl

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import Statistics
from captcha_assets.images.index import build_image_index
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.images.table_parts import write_one_file
from captcha_assets.models import folder
from captcha_assets.models.feature_extractor import FeatureExtractor
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.onnx_export import export
from captcha_assets.monitoring.sample import Reference, reference_of
from captcha_assets.quality import drift
from captcha_assets.sources.synthetic_batches import generate, write_archive

DAY = "2026-11-28"
MODEL_ID = "the-model"
_IMAGES, _SEED = 3000, 11


def images(count: int, seed: int) -> np.ndarray:
    """Images that no model was trained on, uint8 (count, 52, 32)."""
    return np.stack([image for _, image in generate(count, seed)])


def brighter(pixels: np.ndarray, by: int = 40) -> np.ndarray:
    return np.clip(pixels.astype(int) + by, 0, 255).astype(np.uint8)


class Model:
    """A small model, trained and exported, with its reference."""

    def __init__(self, work: Path) -> None:
        table, splits = self.table, self.splits = _split(work)
        sets = [
            read_split([table], splits, name, classes=CAPTCHA.classes, shape=CAPTCHA.shape)
            for name in ("train", "validation")
        ]
        self.folder = work / "onnx"
        _train(sets[0], work / "model")
        export(work / "model", self.folder, sets[1].pixels)
        self.extractor = FeatureExtractor(self.folder)
        summary = drift.summarize([table], CAPTCHA, splits)
        self.validation, self.training = sets[1], summary
        self.reference: Reference = reference_of(MODEL_ID, self.extractor, sets[1], summary)

    def day(self, place: Path, pixels: np.ndarray, day: str = DAY, model: str = MODEL_ID) -> Path:
        """Write a table of the prediction log: the model's predictions of images."""
        probabilities, _ = self.extractor.extract(pixels)
        found, best = Statistics(pixels), probabilities.argmax(axis=1)
        start = datetime.fromisoformat(day).replace(tzinfo=UTC)
        rows = {
            "inference_id": [f"{day}-{number}" for number in range(len(pixels))],
            "time": [start + timedelta(seconds=number) for number in range(len(pixels))],
            "model_version": [model] * len(pixels),
            "image": [cv2.imencode(".png", image)[1].tobytes() for image in pixels],
            "label": [CAPTCHA.classes[position] for position in best],
            "score": probabilities.max(axis=1, initial=0).astype(float),
            "probabilities": probabilities.astype(float).tolist(),
            **{name: getattr(found, name).astype(float) for name in drift.STATISTICS[:3]},
            "corrected_label": [None] * len(pixels),
        }
        types = {
            "inference_id": pl.String,
            "time": pl.Datetime("us", "UTC"),
            "model_version": pl.String,
            "image": pl.Binary,
            "label": pl.String,
            "probabilities": pl.List(pl.Float64),
            "corrected_label": pl.String,
        }
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{day}.parquet"
        pl.DataFrame(rows, schema_overrides=types).write_parquet(path)
        return path


def correct(table: Path, rows: Sequence[int], *, wrong: bool) -> None:
    """Give a label to predictions of a table: another class than the predicted one, or the same."""
    frame = pl.read_parquet(table).with_row_index()
    first, second = CAPTCHA.classes[:2]
    other = pl.when(pl.col("label") == first).then(pl.lit(second)).otherwise(pl.lit(first))
    given = pl.when(pl.col("index").is_in(rows)).then(other if wrong else pl.col("label"))
    frame.with_columns(corrected_label=given.otherwise("corrected_label")).drop("index").write_parquet(table)


def _split(work: Path) -> tuple[Path, Path]:
    archive, table, index = work / "batch.zip", work / "batch.parquet", work / "index"
    write_archive(archive, _IMAGES, _SEED)
    build_image_table(archive, "batch", table, work / "rejected.parquet", CAPTCHA)
    build_image_index({"batch": table}, index, CAPTCHA)
    record = AssignmentRecord(work / "assignments", work)
    update_splits(index, work / "splits", record, CAPTCHA, lambda _: table)
    write_one_file(work / "splits", work / "splits.parquet")
    return table, work / "splits.parquet"


def _train(images: SplitImages, place: Path) -> None:
    """Write a model that reads four of five images: a narrow network, six epochs."""
    import torch

    from captcha_assets.models.network import build

    torch.manual_seed(0)
    channels, mean, std = (8, 16, 32, 64), 0.6, 0.35
    network = build("resnet18", channels, len(CAPTCHA.classes))
    pixels = (torch.from_numpy(images.pixels.copy())[:, None].float() / 255 - mean) / std
    labels = torch.from_numpy(images.labels)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    epochs, steps = 6, len(labels) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels))[: steps * 64].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(pixels[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    config = ModelConfig(
        architecture="resnet18", channels=channels, classes=CAPTCHA.classes, input_size=(52, 32), mean=mean,
        std=std, temperature=1.0, seed=0, splits_version="v1", code_version="c1",
    )  # fmt: skip
    folder.save(place, network, config, [{"epoch": epochs}], {})
