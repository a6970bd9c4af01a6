"""Archives through the platform's library: image tables, validation results, index, splits."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.local_tables import LocalTables, batches_of
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.images.table_parts import write_one_file
from captcha_assets.quality.validation import validate_image_table
from captcha_assets.settings import Settings, load_settings
from captcha_assets.sources.archives import archive_to
from captcha_assets.sources.synthetic_batches import write_archive

#: Batches to train on.
GENERATED, REAL = "generated", "real"
#: Other sets to test on: the test split, with what is in it of both, and samples of the Kaggle data set.
TEST, KAGGLE = "test", "kaggle"


def new_home(folder: Path) -> Settings:
    """An empty home: an image keeps its split for ever, so what was there before would decide."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_settings(home=folder, artifacts=str(folder / "artifacts"))
    settings.paths.raw.mkdir(parents=True)
    return settings


def deliver(settings: Settings, name: str, source: Path | int, *, validated: bool = True) -> None:
    """Build the image table of an archive, a folder, or so many generated images, and validate it."""
    archive = settings.paths.raw / f"{name}.zip"
    if isinstance(source, int):
        write_archive(archive, source)
    else:
        archive_to(source, archive)
    table, rejected = settings.paths.image_table(name), settings.paths.rejected_images(name)
    build_image_table(archive, name, table, rejected, CAPTCHA)
    if validated:
        failures = validate_image_table(table, rejected, CAPTCHA).failures
        if failures:
            raise SystemExit(f"{source} fails the checks {', '.join(one.name for one in failures)}")


def split(settings: Settings, names: Iterable[str]) -> LocalTables:
    """Bring batches together and give every image its split."""
    build_image_index(
        {name: settings.paths.image_table(name) for name in names}, settings.paths.image_index, CAPTCHA
    )
    record = AssignmentRecord(settings.paths.split_assignments, settings.paths.scratch)
    update_splits(
        settings.paths.image_index, settings.paths.splits, record, CAPTCHA, settings.paths.image_table
    )
    batches = batches_of(settings.paths.splits)
    splits = settings.paths.scratch / "splits.parquet"
    write_one_file(settings.paths.splits, splits)
    return LocalTables(tuple(Path(settings.paths.image_table(name)) for name in batches), splits, batches)


def of_batch(images: SplitImages, batch: str) -> SplitImages:
    """Those images that one batch brought."""
    mine = np.flatnonzero(images.batches == batch)
    return SplitImages(
        images.image_ids[mine], images.pixels[mine], images.labels[mine], images.batches[mine], images.classes
    )


def all_of(folder: Path, name: str, source: Path) -> SplitImages:
    """All images of an archive or a folder that nothing is trained on."""
    settings = new_home(folder)
    deliver(settings, name, source, validated=False)
    data = split(settings, [name])
    return read_split(data.tables, data.splits, None, classes=CAPTCHA.classes, shape=CAPTCHA.shape)
