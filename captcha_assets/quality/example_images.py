"""The images among the unexpected rows, as PNG: words alone rarely show what is wrong with an image."""

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.quality.validation_result import IMAGE_COLUMNS


def of_rows(
    rows: Iterable[Mapping[str, Any]], tables: Mapping[str, AnyPath], spec: DatasetSpec
) -> dict[str, str]:
    """Look up the images that rows name.

    Args:
        rows: may name images (`IMAGE_COLUMNS`), and the batch whose table holds them.
        tables: image tables by batch; where there is but one, it is every row's.
        spec: the size of an image.

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
    shape = (spec.height, spec.width, spec.channels)
    return {
        image_id: _base64_png(np.frombuffer(pixels, np.uint8).reshape(shape))
        for image_id, pixels in images.iter_rows()
        if pixels is not None and len(pixels) == math.prod(shape)
    }


def _base64_png(image: NDArray[np.uint8]) -> str:
    """Encode an image, uint8 (height, width, channels), as base64 of a PNG."""
    in_order = image[:, :, ::-1]  # OpenCV expects the channels in the order blue, green, red
    return base64.b64encode(cv2.imencode(".png", in_order)[1].tobytes()).decode("ascii")
