"""Small tables as the other rooms write them, without a fault; a test spoils what it is about."""

from pathlib import Path

import numpy as np
import polars as pl
import xxhash

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import INDEX_SCHEMA
from captcha_assets.images.split_assignment import SPLITS_SCHEMA
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA, REJECTED_SCHEMA
from captcha_assets.images.table_files import polars_schema

#: Kaptcha's alphabet: one turn of it has the known class balance.
ALPHABET = (*CAPTCHA.classes, "n")


def image_table(turns: int = 20, batch: str = "first") -> pl.DataFrame:
    """`turns` times the alphabet: images of noise whose first bytes number them."""
    count = turns * len(ALPHABET)
    pixels = np.random.default_rng(0).integers(0, 255, (count, CAPTCHA.pixel_bytes), dtype=np.uint8)
    labels = [label for _ in range(turns) for label in ALPHABET]
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "image_id": [xxhash.xxh3_128_hexdigest(image.tobytes()) for image in pixels],
            "batch": [batch] * count,
            "member": [f"Dataset/{label}_{n:05d}.png" for n, label in enumerate(labels)],
            "label": labels,
            "pixels": [image.tobytes() for image in pixels],
            "signature": [bytes(8)] * count,
            "descriptors": [bytes(8)] * count,
            "dhash": range(count),
            "brightness": rng.uniform(110, 180, count),
            "contrast": rng.uniform(75, 100, count),
            "foreground_fraction": rng.uniform(0.2, 0.5, count),
            "source_mode": ["L"] * count,
            "file_bytes": [1500] * count,
            "file_hash": [f"{n:032x}" for n in range(count)],
        },
        schema=polars_schema(IMAGE_TABLE_SCHEMA),
    )


def rejected(count: int = 0, reason: str = "not_an_image") -> pl.DataFrame:
    """Rejected members of a batch."""
    return pl.DataFrame(
        {
            "batch": ["first"] * count,
            "member": [f"Dataset/bad_{n}.png" for n in range(count)],
            "reason": [reason] * count,
            "detail": ["it is a text"] * count,
        },
        schema=polars_schema(REJECTED_SCHEMA),
    )


def image_index(turns: int = 20) -> pl.DataFrame:
    """The index of one batch without duplicates."""
    table = image_table(turns)
    source = pl.struct("batch", "member", "label")
    return (
        table.with_columns(
            status=pl.lit("usable"),
            group="image_id",
            copies=pl.lit(1, pl.Int32),
            sources=pl.concat_list(source),
        )
        .select(INDEX_SCHEMA.names)
        .sort("image_id")
    )


def splits(index: pl.DataFrame) -> pl.DataFrame:
    """Each class over the splits as promised: 70, 20 and 10 percent."""
    place = pl.int_range(pl.len()).over("label") / pl.len().over("label")
    split = pl.when(place < 0.7).then(pl.lit("train")).when(place < 0.9).then(pl.lit("validation"))
    return index.with_columns(
        split=split.otherwise(pl.lit("test")),
        exclusion_reason=pl.lit(None, pl.String),
    ).select(SPLITS_SCHEMA.names)


def write(frame: pl.DataFrame, path: Path) -> Path:
    """Write a table and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)
    return path
