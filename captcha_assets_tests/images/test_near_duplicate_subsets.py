"""Near-duplicates that were never in the index together, in real image tables."""

from pathlib import Path

import numpy as np
import polars as pl

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import image_id
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import NEAR_DUPLICATE_OF_TWO_SPLITS, update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.quality.validation import validate_splits
from captcha_assets.sources.synthetic_batches import render
from captcha_assets_tests.images.copies import shifted
from captcha_assets_tests.images.tables import rows_of, write_table


def test_copies_that_came_while_their_originals_were_removed_yield_when_these_return(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    images = np.stack([render("a", chance) for _ in range(30)])
    copies = shifted(images, 0, 1)
    tables = {
        name: write_table(tmp_path / f"{name}.parquet", name, [("a", image) for image in some])
        for name, some in {"originals": images, "copies": copies}.items()
    }
    index, splits = tmp_path / "index", tmp_path / "splits"
    record = AssignmentRecord(tmp_path / "data", tmp_path / "scratch")

    def update(*names: str) -> pl.DataFrame:
        build_image_index({name: tables[name] for name in names}, index, CAPTCHA)
        update_splits(index, splits, record, CAPTCHA, tables.__getitem__)
        return rows_of(splits)

    first = dict(update("originals").select("image_id", "split").iter_rows())
    second = dict(update("copies").select("image_id", "split").iter_rows())
    both = {row["image_id"]: row for row in update("originals", "copies").to_dicts()}
    apart = 0
    for original, copy in zip(map(image_id, images), map(image_id, copies), strict=True):
        assert both[original]["split"] == first[original]
        differ = first[original] != second[copy]
        apart += differ
        assert both[copy]["split"] == (None if differ else second[copy])
        assert both[copy]["exclusion_reason"] == (NEAR_DUPLICATE_OF_TWO_SPLITS if differ else None)
    assert 0 < apart < 30
    assert validate_splits(splits, index, record, CAPTCHA).passed
