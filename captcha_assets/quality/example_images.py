"""The images among the unexpected rows, as PNG: words alone rarely show what is wrong with an image."""

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.quality.expectation_problems import IMAGE_COLUMNS


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


def ids_spread_over(tables: Mapping[str, AnyPath], groups: int) -> pl.Series:
    """Return the ids of the images in some row groups, spread evenly over all tables.

    Args:
        tables: image tables by batch.
        groups: row groups that are read at most.
    """
    places = []
    for batch in sorted(tables):
        with tables[batch].open("rb") as stream, pq.ParquetFile(stream) as file:
            places += [(batch, number) for number in range(file.num_row_groups)]
    chosen: dict[str, list[int]] = {}
    for step in np.unique(np.linspace(0, len(places) - 1, groups).astype(int)) if places else ():
        batch, number = places[step]
        chosen.setdefault(batch, []).append(number)
    found = [pl.Series("image_id", [], pl.String)]
    for batch, numbers in chosen.items():
        with tables[batch].open("rb") as stream, pq.ParquetFile(stream) as file:
            found.append(
                pl.Series("image_id", file.read_row_groups(numbers, columns=["image_id"])["image_id"])
            )
    return pl.concat(found)


def _encoded(table: AnyPath, image_ids: set[str], spec: DatasetSpec) -> dict[str, str]:
    """Return some images of a table; only the row groups that hold one are read."""
    wanted = pl.Series("image_id", sorted(image_ids), pl.String).implode()
    shape = (spec.height, spec.width, spec.channels)
    found: dict[str, str] = {}
    with table.open("rb") as stream, pq.ParquetFile(stream) as file:
        rows = pl.Series(file.read(columns=["image_id"])["image_id"]).is_in(wanted).arg_true().to_numpy()
        ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
        for group in np.unique(np.searchsorted(ends, rows, side="right")).tolist():
            images = pl.DataFrame(pl.from_arrow(file.read_row_group(group, columns=["image_id", "pixels"])))
            for image_id, pixels in images.filter(pl.col("image_id").is_in(wanted)).iter_rows():
                if pixels is not None and len(pixels) == math.prod(shape):
                    found[image_id] = _base64_png(np.frombuffer(pixels, np.uint8).reshape(shape))
    return found


def _base64_png(image: NDArray[np.uint8]) -> str:
    """Encode an image, uint8 (height, width, channels), as base64 of a PNG."""
    in_order = image[:, :, ::-1]  # OpenCV expects the channels in the order blue, green, red
    return base64.b64encode(cv2.imencode(".png", in_order)[1].tobytes()).decode("ascii")
