"""One row per batch: counts of its images and the outcome of its checks."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images import table_parts
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.quality.validation_result import ValidationResultError


@dataclass(frozen=True)
class BatchOverview:
    """One batch. Counts are None until the batch was materialized.

    Attributes:
        batch: its name.
        delivered: members of the archive, usable or not.
        usable: images that could be decoded and labelled.
        rejected: members that cannot be used.
        duplicates: usable images that another member, of this batch or an earlier one, holds already.
        checks: "passed", "passed, N warnings", "quarantined: NAME, ..." or "not materialized".
    """

    batch: str
    delivered: int | None
    usable: int | None
    rejected: int | None
    duplicates: int | None
    checks: str

    def to_dict(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return asdict(self)


def describe_batches(paths: Paths, batches: Iterable[str]) -> list[BatchOverview]:
    """Describe batches from their stored tables and validation results; nothing is computed again."""
    firsts = _firsts_by_batch(paths)
    return [_describe(paths, name, firsts) for name in sorted(batches)]


def _describe(paths: Paths, batch: str, firsts: dict[str, int]) -> BatchOverview:
    folder = paths.validation_results("image_table", batch)
    if not validation_result.is_stored(folder):
        return BatchOverview(batch, None, None, None, None, "not materialized")
    try:
        usable = _rows(paths.image_table(batch))
        rejected = _rows(paths.rejected_images(batch))
        validation = validation_result.load_batch(paths, batch)
    except (pl.exceptions.PolarsError, OSError, ValidationResultError):
        return BatchOverview(batch, None, None, None, None, "missing or damaged: captcha-assets update")
    # An image counts for the batch that brought it first.
    duplicates = usable - firsts[batch] if batch in firsts and validation.passed else None
    return BatchOverview(batch, usable + rejected, usable, rejected, duplicates, validation.outcome)


def _rows(path: AnyPath) -> int:
    return pl.scan_parquet(str(path)).select(pl.len()).collect().item()


def _firsts_by_batch(paths: Paths) -> dict[str, int]:
    """How many images each batch of the index was the first to bring; empty where there is no index.

    The splits know which batch that was; of an image that they do not hold yet, the index names one.
    """
    if not table_parts.exists(paths.image_index):
        return {}
    try:
        images = table_parts.scan(paths.image_index).select("image_id", "batch", "sources")
        known = images.select(pl.col("sources").explode().struct.field("batch").unique()).collect()
        first = pl.col("batch")
        if table_parts.exists(paths.splits):
            split = table_parts.scan(paths.splits).select("image_id", first="batch")
            images, first = images.join(split, on="image_id", how="left"), pl.coalesce("first", "batch")
        counted = images.group_by(batch=first).len().collect()
    except (pl.exceptions.PolarsError, OSError):
        return {}  # damaged: `status` reports it, and `update` materializes it again
    return dict.fromkeys(known["batch"].to_list(), 0) | dict(counted.iter_rows())
