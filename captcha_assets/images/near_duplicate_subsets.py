"""Near-duplicate groups among some of the images only: do they share a group without the others?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.features import CROPS, TABLES, thumbnails
from captcha_assets.images.near_duplicates import near_duplicate_groups
from captcha_assets.images.table_files import require_columns

_BINARY = ["signature", "descriptors", "pixels"]

#: Gives for `image_id`, `label` and `table` of some images the name of each one's group among these.
Regroup = Callable[[pl.DataFrame], pl.Series]


def regroup_in(table_of: Callable[[str], AnyPath], spec: DatasetSpec) -> Regroup:
    """Return a function that groups images by what their image tables hold.

    Args:
        table_of: gives the image table of a batch.
        spec: what its images look like.
    """

    def regroup(images: pl.DataFrame) -> pl.Series:
        rows = pl.concat(
            _rows(table_of(str(batch)), some)
            for (batch,), some in images.group_by("table", maintain_order=True)
        ).join(images.select("image_id", "label"), on="image_id")
        named = pl.concat(_named(some, spec) for some in rows.partition_by("label"))
        return images.join(named, on="image_id", how="left", maintain_order="left")["part"]

    return regroup


def _rows(table: AnyPath, images: pl.DataFrame) -> pl.DataFrame:
    """Return `image_id`, `signature`, `descriptors` and `pixels` of these images of a batch."""
    wanted = pl.col("image_id").is_in(images["image_id"].implode())
    with fetched(table) as local:
        require_columns(Path(local), _BINARY)
        found = pl.scan_parquet(local).filter(wanted).select("image_id", *_BINARY).collect()
    return found.unique("image_id", keep="first", maintain_order=True)  # a batch may hold an image twice


def _named(rows: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Return `image_id` and `part`, the smallest image of each one's group, of images of one class."""
    rows = rows.sort("image_id")
    signatures, descriptors, pixels = (b"".join(rows[name]) for name in _BINARY)
    images = np.frombuffer(pixels, np.uint8).reshape(-1, *spec.shape)
    first = near_duplicate_groups(
        np.frombuffer(signatures, np.uint32).reshape(-1, TABLES, len(CROPS)),
        np.frombuffer(descriptors, np.int8).reshape(len(rows), len(CROPS), -1),
        lambda rows: thumbnails(images[rows]),
        spec.near_duplicate_correlation,
    )
    return rows.select("image_id", part=rows["image_id"].gather(first))
