"""Reading a split: the right pixels, always the same, or a sentence that says what to do."""

import subprocess
import sys
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images import reader
from captcha_assets.images.reader import ReaderError
from captcha_assets_tests.training.examples import draw_many, write_batch, write_splits, write_table

read_split = partial(reader.read_split, classes=CAPTCHA.classes, shape=CAPTCHA.shape)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return write_batch(tmp_path_factory.mktemp("batch"), 400)


def test_every_image_comes_with_its_own_pixels_and_label(batch):
    tables, splits = batch
    images, labels = draw_many(400)
    ids = pq.read_table(tables[0])["image_id"].to_pylist()
    expected = {name: (image, label) for name, image, label in zip(ids, images, labels, strict=True)}
    read = read_split(tables, splits, None)
    assert len(read) == 400
    assert list(read.image_ids) == sorted(read.image_ids)
    for name, pixels, label in zip(read.image_ids, read.pixels, read.labels, strict=True):
        assert np.array_equal(pixels, expected[name][0])
        assert CAPTCHA.classes[label] == expected[name][1]


def test_the_splits_part_the_placed_images(batch):
    parts = [set(read_split(*batch, split).image_ids) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 400
    assert [len(part) for part in parts] == [280, 80, 40]


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_larger_sample_contains_the_smaller_one(batch, one, other):
    small, large = sorted((one, other))
    inner = read_split(*batch, None, sample_size=small)
    outer = read_split(*batch, None, sample_size=large)
    assert len(inner) == small
    assert set(inner.image_ids) <= set(outer.image_ids)


def test_a_sample_is_drawn_over_all_splits_before_one_is_chosen(batch):
    whole = set(read_split(*batch, None, sample_size=150).image_ids)
    train = set(read_split(*batch, "train", sample_size=150).image_ids)
    assert train == whole & set(read_split(*batch, "train").image_ids)


def test_the_order_of_rows_and_tables_changes_nothing(batch, tmp_path):
    images, labels = draw_many(60)
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    ids = write_table(one, "one", images[:30], labels[:30]) + write_table(
        other, "other", images[30:], labels[30:]
    )
    write_splits(tmp_path / "splits.parquet", ids, labels, ["one"] * 30 + ["other"] * 30)
    before = read_split([one, other], tmp_path / "splits.parquet", None)
    for path in (one, other, tmp_path / "splits.parquet"):
        pq.write_table(pq.read_table(path).take(np.arange(60 if path.stem == "splits" else 30)[::-1]), path)
    after = read_split([other, one], tmp_path / "splits.parquet", None)
    assert np.array_equal(before.pixels, after.pixels)
    assert list(before.image_ids) == list(after.image_ids)


def test_an_image_delivered_twice_is_read_from_the_batch_the_splits_name(tmp_path):
    images, labels = draw_many(2)
    ids = write_table(tmp_path / "first.parquet", "first", images, labels)
    write_table(tmp_path / "second.parquet", "second", np.concatenate([images, images[::-1]]), labels * 2)
    write_splits(tmp_path / "splits.parquet", ids, labels, ["second", "second"])
    read = read_split(
        [tmp_path / "first.parquet", tmp_path / "second.parquet"], tmp_path / "splits.parquet", None
    )
    assert set(read.batches) == {"second"}
    assert np.array_equal(read.pixels[list(read.image_ids).index(ids[0])], images[0])


def test_excluded_images_are_never_read(batch, tmp_path):
    tables, splits = batch
    table = pq.read_table(splits)
    assigned = table["split"].to_pylist()
    assigned[5] = None
    held = tmp_path / "splits.parquet"
    pq.write_table(table.set_column(3, "split", pa.array(assigned, pa.string())), held)
    assert len(read_split(tables, held, None)) == 399
    assert table["image_id"][5].as_py() not in read_split(tables, held, None).image_ids


def test_an_empty_split_is_read_as_no_images(batch, tmp_path):
    tables, splits = batch
    empty = tmp_path / "splits.parquet"
    pq.write_table(pq.read_table(splits).slice(0, 0), empty)
    read = read_split(tables, empty, "train")
    assert read.pixels.shape == (0, 52, 32)
    assert read.labels.shape == (0,)


def test_what_is_missing_is_named(batch, tmp_path):
    tables, splits = batch
    with pytest.raises(ReaderError, match="does not exist: materialize"):
        read_split(tables, tmp_path / "none.parquet", None)
    with pytest.raises(ReaderError, match=r"400 images of .* none of the 0 image tables"):
        read_split([], splits, None)
    with pytest.raises(ReaderError, match="labels that are no class: y"):
        read_split(tables, splits, None, classes=CAPTCHA.classes[:-1])
    with pytest.raises(ReaderError, match="split 'tset'"):
        read_split(tables, splits, "tset")
    with pytest.raises(ReaderError, match="sample_size is 0"):
        read_split(tables, splits, None, sample_size=0)


def test_a_damaged_or_foreign_file_is_named(batch, tmp_path):
    tables, splits = batch
    (tmp_path / "damaged.parquet").write_bytes(tables[0].read_bytes()[:-100])
    with pytest.raises(ReaderError, match=r"damaged\.parquet cannot be read"):
        read_split([tmp_path / "damaged.parquet"], splits, None)
    pq.write_table(pa.table({"image_id": ["a"], "batch": ["b"]}), tmp_path / "foreign.parquet")
    with pytest.raises(ReaderError, match="lacks the columns pixels"):
        read_split([tmp_path / "foreign.parquet"], splits, None)
    narrow = pq.read_table(tables[0])
    short = pa.array([b"x" * 10] * len(narrow), pa.binary())
    pq.write_table(narrow.set_column(4, "pixels", short), tmp_path / "short.parquet")
    with pytest.raises(ReaderError, match="not 1,664 bytes long"):
        read_split([tmp_path / "short.parquet"], splits, None)


def test_reading_needs_neither_data_frames_nor_an_orchestrator():
    code = (
        "import sys, captcha_assets.images.reader\n"
        "heavy = {'polars', 'pydantic', 'upath', 'dagster', 'torch', 'pandas'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
