"""The tables of the placed images, as local files: what training, evaluation and export read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from captcha_assets.images.frames import require_table
from captcha_assets.settings import Settings
from captcha_assets.storage import AnyPath, fetched


@dataclass(frozen=True)
class LocalTables:
    """Local files, whole as long as the block that yielded them runs.

    Attributes:
        tables: `image_table` of every delivery that has images in the splits, in order of their names.
        splits: the splits.
        batches: the names of those deliveries.
    """

    tables: tuple[Path, ...]
    splits: Path
    batches: tuple[str, ...]


def batches_of(splits: AnyPath) -> tuple[str, ...]:
    """The deliveries that have images in the splits, in order of their names."""
    return tuple(pl.scan_parquet(str(splits)).select("batch").unique().collect().to_series().sort())


@contextmanager
def local_tables(settings: Settings) -> Iterator[LocalTables]:
    """Yield local copies of the splits and of the image tables that they refer to.

    Raises:
        MissingTableError: one of them is not there.
    """
    with ExitStack() as stack:
        splits = stack.enter_context(fetched(require_table(settings.splits)))
        batches = batches_of(splits)
        places = [require_table(settings.image_table(name)) for name in batches]
        tables = tuple(stack.enter_context(fetched(place)) for place in places)
        yield LocalTables(tables, splits, batches)
