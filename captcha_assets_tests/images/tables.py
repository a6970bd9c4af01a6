"""Image tables for the tests, written without an archive."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images.features import Statistics, descriptors, dhash, image_id, rounded, signatures
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.images.table_parts import MANIFEST, read_manifest, scan


def content(table: AnyPath) -> dict[str, bytes]:
    """Return the manifest of a table in parts and the files that it names, by name."""
    files = [table / MANIFEST, *read_manifest(table).files()]
    return {file.name: file.read_bytes() for file in files}


def rows_of(table: AnyPath) -> pl.DataFrame:
    """Return the rows of a table in parts, in order of their images."""
    return scan(table).sort("image_id").collect()


def write_table(path: Path, batch: str, images: Sequence[tuple[str, np.ndarray]]) -> Path:
    """Write the image table of a batch of labelled images."""
    pixels = np.stack([image for _, image in images]) if images else np.zeros((0, 52, 32), np.uint8)
    statistics, described = Statistics(pixels), descriptors(pixels)
    columns = {
        "image_id": [image_id(image) for image in pixels],
        "batch": [batch] * len(pixels),
        "member": [f"{label}_{n}.png" for n, (label, _) in enumerate(images)],
        "label": [label for label, _ in images],
        "pixels": [image.tobytes() for image in pixels],
        "signature": [signature.tobytes() for signature in signatures(described)],
        "descriptors": [descriptor.tobytes() for descriptor in rounded(described)],
        "dhash": dhash(pixels),
        "brightness": statistics.brightness,
        "contrast": statistics.contrast,
        "foreground_fraction": statistics.foreground_fraction,
        "source_mode": ["L"] * len(pixels),
        "file_bytes": [0] * len(pixels),
        "file_hash": [""] * len(pixels),
    }
    pq.write_table(pa.table(columns, IMAGE_TABLE_SCHEMA), path, row_group_size=7)
    return path
