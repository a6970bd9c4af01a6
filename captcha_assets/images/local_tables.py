"""The tables of the images that have a split, as local files: what training, evaluation and export read."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from captcha_assets.atomic_files import AnyPath, own_folder
from captcha_assets.images import table_parts
from captcha_assets.images.table_files import require_table
from captcha_assets.paths import Paths


@dataclass(frozen=True)
class LocalTables:
    """Local files, whole as long as the block that yielded them runs.

    Attributes:
        tables: `image_table` of every batch that has images in the splits, in order of their names.
        splits: the splits, in one file.
        batches: the names of those batches.
    """

    tables: tuple[Path, ...]
    splits: Path
    batches: tuple[str, ...]


def batches_of(splits: AnyPath) -> tuple[str, ...]:
    """The batches that have images in the splits, in order of their names."""
    return tuple(table_parts.scan(splits).select("batch").unique().collect().to_series().sort())


@contextmanager
def local_tables(paths: Paths) -> Iterator[LocalTables]:
    """Yield the splits and the image tables that they refer to, of one moment.

    A batch that arrives, or is removed, while the block runs changes nothing of what it reads.

    Raises:
        MissingTableError: one of them is not there.
    """
    with own_folder(paths.scratch, "reading-") as folder:
        splits = folder / "splits.parquet"
        table_parts.write_one_file(paths.splits, splits)
        batches = batches_of(splits)
        (folder / "image_table").mkdir()
        tables = tuple(
            _kept(require_table(paths.image_table(batch)), folder / "image_table") for batch in batches
        )
        yield LocalTables(tables, splits, batches)


def _kept(path: AnyPath, folder: Path) -> Path:
    """Keep a file in a folder, the same whatever is put in its place meanwhile; a local one is not copied."""
    kept = folder / path.name
    if not isinstance(path, Path):
        path.fs.get(path.path, str(kept))
        return kept
    try:
        os.link(path, kept)
    except OSError:  # artifacts on another disk than the scratch folder
        shutil.copyfile(path, kept)
    return kept
