"""The images among the examples, as PNG: words alone rarely show what is wrong with an image."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import polars as pl

from captcha_assets.dataset import DatasetSpec
from captcha_assets.quality.verdict import IMAGE_COLUMNS, Finding
from captcha_assets.storage import AnyPath


def of_examples(
    findings: Iterable[Finding], tables: Mapping[str, AnyPath], spec: DatasetSpec
) -> dict[str, str]:
    """Look up the images that the examples of findings name, see `of_rows`."""
    return of_rows((example for finding in findings for example in finding.examples), tables, spec)


def of_rows(
    rows: Iterable[Mapping[str, Any]], tables: Mapping[str, AnyPath], spec: DatasetSpec
) -> dict[str, str]:
    """Look up the images that rows name.

    Args:
        rows: may name images (`IMAGE_COLUMNS`), and the delivery whose table holds them.
        tables: image tables by delivery; where there is but one, it is every row's.
        spec: what the images look like.

    Returns:
        Image id to base64 PNG, of those that could be found.
    """
    only = next(iter(tables)) if len(tables) == 1 else ""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        for column in IMAGE_COLUMNS.keys() & row.keys():
            wanted.setdefault(row.get(IMAGE_COLUMNS[column]) or only, set()).add(row[column])
    found: dict[str, str] = {}
    for batch in sorted(wanted.keys() & tables.keys()):
        found |= _encoded(tables[batch], wanted[batch], spec)
    return dict(sorted(found.items()))


def _encoded(table: AnyPath, image_ids: set[str], spec: DatasetSpec) -> dict[str, str]:
    rows = pl.scan_parquet(str(table), glob=False).filter(pl.col("image_id").is_in(list(image_ids)))
    images = rows.select("image_id", "pixels").unique("image_id").collect(engine="streaming")
    return {
        image_id: _base64_png(pixels, spec)
        for image_id, pixels in images.iter_rows()
        if pixels is not None and len(pixels) == spec.pixel_bytes
    }


def _base64_png(pixels: bytes, spec: DatasetSpec) -> str:
    """Encode one image's bytes, row by row, as base64 of a PNG."""
    image = np.frombuffer(pixels, np.uint8).reshape(spec.shape)
    if image.ndim == 3:
        image = image[..., ::-1]  # OpenCV takes blue, green, red
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode("ascii")
