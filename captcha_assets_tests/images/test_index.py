"""The image index: one row per distinct image, whatever way the batches came."""

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.atomic_files import remove
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images import index as image_index
from captcha_assets.images.features import image_id
from captcha_assets.images.index import (
    COLUMN_DESCRIPTIONS,
    INDEX_SCHEMA,
    build_image_index,
    list_conflicts,
)
from captcha_assets.images.table_files import StaleTableError
from captcha_assets.images.table_parts import read_manifest, scan, verified_version
from captcha_assets.sources.synthetic_batches import render
from captcha_assets_tests.images.copies import COPIES
from captcha_assets_tests.images.tables import content, write_table


@cache
def pool() -> tuple[tuple[str, np.ndarray], ...]:
    """Twelve images of two classes, and copies of some of them."""
    rng = np.random.default_rng(0)
    images = [(label, render(label, rng)) for label in "ab" for _ in range(6)]
    copies = [
        (label, COPIES[kind](image[None])[0]) for label, image in images[::3] for kind in ("left", "noise")
    ]
    return tuple(images + copies)


A, B = pool()[0][1], pool()[1][1]


@pytest.fixture
def index(tmp_path):
    """Build the index of batches, given as name to labelled images; return summary and rows."""

    def build(batches, fresh=False):
        target = tmp_path / "index"
        if fresh:
            remove(target)
        tables = {
            name: write_table(tmp_path / f"{name}.parquet", name, images) for name, images in batches.items()
        }
        summary = build_image_index(tables, target, CAPTCHA)
        return summary, scan(target).collect()

    return build


def test_exact_copies_are_one_image_with_all_its_sources(index):
    summary, rows = index({"two": [("a", A), ("a", A)], "one": [("b", B), ("a", A)]})
    assert (summary.images, summary.usable, summary.duplicates) == (2, 2, 2)
    row = rows.row(by_predicate=pl.col("image_id") == image_id(A), named=True)
    assert (row["label"], row["batch"], row["member"], row["copies"]) == ("a", "one", "a_1.png", 3)
    assert [source["batch"] for source in row["sources"]] == ["one", "two", "two"]


def test_contradicting_labels_set_an_image_aside_with_its_sources(index, tmp_path):
    summary, rows = index({"one": [("a", A), ("b", B)], "two": [("b", A)]})
    assert (summary.images, summary.usable, summary.conflicts) == (2, 1, 1)
    conflict = rows.row(by_predicate=pl.col("image_id") == image_id(A), named=True)
    assert (conflict["status"], conflict["label"]) == ("label_conflict", None)
    listed = list_conflicts(tmp_path / "index")
    assert listed["image_id"].to_list() == [image_id(A)]
    assert [(s["batch"], s["label"]) for s in listed["sources"][0]] == [("one", "a"), ("two", "b")]


def test_near_duplicates_of_one_class_share_a_group(index):
    copies = [("a", copy(A[None])[0]) for copy in COPIES.values()]
    summary, rows = index({"one": [("a", A), ("b", B)], "two": copies})
    ids = {image_id(A), *(image_id(image) for _, image in copies)}
    tied = rows.filter(pl.col("image_id").is_in(ids))
    assert set(tied["group"]) == {min(ids)}
    assert (summary.groups, summary.images_in_groups) == (1, len(ids))
    assert rows.filter(~pl.col("image_id").is_in(ids))["group"].to_list() == [image_id(B)]


def test_near_duplicates_of_two_classes_are_not_tied(index):
    summary, _ = index({"one": [("a", A), ("b", COPIES["noise"](A[None])[0])]})
    assert summary.groups == 0


def test_a_missing_image_keeps_its_place_by_its_other_source(index):
    index({"one": [("a", A)], "two": [("a", A), ("b", B)]})
    _, rows = index({"two": [("a", A), ("b", B)]})
    assert set(rows["batch"]) == {"two"}
    assert len(rows) == 2


@pytest.mark.parametrize("batches", [{}, {"one": []}, {"one": [], "two": [("a", A)]}])
def test_few_or_no_images_make_an_index(index, batches):
    summary, rows = index(batches)
    assert summary.images == len(rows) == sum(map(len, batches.values()))


def test_the_schema_is_kept_and_described(index, tmp_path):
    index({"one": list(pool())})
    for file in read_manifest(tmp_path / "index").files():
        assert pq.read_schema(file).equals(INDEX_SCHEMA)
    assert set(COLUMN_DESCRIPTIONS) == set(INDEX_SCHEMA.names)


def test_the_version_is_that_of_the_content(index, tmp_path):
    summary, _ = index({"one": list(pool())})
    assert summary.version == verified_version(tmp_path / "index")


BATCH = st.lists(st.sampled_from(range(len(pool()))), max_size=8)
STEP = st.dictionaries(st.sampled_from(["one", "two", "three"]), BATCH, max_size=3)


def labelled(places, swap):
    """Images of the pool; every seventh place is mislabelled in batches that swap."""
    return [("b" if swap and place % 7 == 0 else pool()[place][0], pool()[place][1]) for place in places]


@settings(max_examples=settings.default.max_examples // 4)
@given(st.lists(STEP, min_size=1, max_size=4))
def test_after_any_history_the_index_is_as_if_made_at_once(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("history")
    grown, fresh = folder / "grown", folder / "fresh"
    for step in steps:
        tables = {
            name: write_table(folder / f"{name}.parquet", name, labelled(places, name == "two"))
            for name, places in step.items()
        }
        build_image_index(tables, grown, CAPTCHA)
        build_image_index(dict(reversed(tables.items())), fresh, CAPTCHA)
        assert content(grown) == content(fresh)
        remove(fresh)


def test_merged_in_ranges_of_ids_the_index_has_the_same_content(index, tmp_path, monkeypatch):
    images = list(pool())
    batches = {"one": images, "two": [*images[::2], ("b", A)]}
    at_once, rows_at_once = index(batches, fresh=True)
    monkeypatch.setattr(image_index, "_ROWS_TOGETHER", 3)
    decisions = tmp_path / "label_decisions.csv"
    decisions.write_text(f"image_id,decision,label,reason\n{image_id(B)},drop,,\n")
    summary, rows = index(batches, fresh=True)
    assert summary == at_once
    assert rows.equals(rows_at_once)
    assert (summary.images, summary.conflicts, summary.groups) == (12 + 8, 1, 4)
    tables = {name: tmp_path / f"{name}.parquet" for name in batches}
    without = build_image_index(tables, tmp_path / "index", CAPTCHA, decisions)
    assert (without.images, without.idle_decisions) == (summary.images - 1, ())


def test_of_old_batches_only_what_meets_new_images_is_read(index, monkeypatch):
    rng = np.random.default_rng(5)
    old = [(label, render(label, rng)) for label in "ab" for _ in range(70)]
    index({"old": old})
    read = []
    original = image_index._BinaryReader._read_row_group

    def spy(self, column, table, group):
        read.append((column, group))
        return original(self, column, table, group)

    monkeypatch.setattr(image_index._BinaryReader, "_read_row_group", spy)
    summary, _ = index({"old": old, "new": [("a", COPIES["noise"](old[3][1][None])[0])]})
    assert summary.groups == 1
    assert read.count(("pixels", 0)) == 2  # where the copied image lies, and the new table's only one
    assert sum(column == "pixels" for column, _ in read) == 2
    assert all(group <= 10 for _, group in read)  # nothing at all of the other class


def test_groups_found_by_another_rule_are_found_again(tmp_path):
    pair = [("a", A), ("a", COPIES["noise"](A[None])[0])]
    tables = {"one": write_table(tmp_path / "one.parquet", "one", pair)}
    strict = replace(CAPTCHA, near_duplicate_correlation=1.0)
    assert build_image_index(tables, tmp_path / "index", strict).groups == 0
    assert build_image_index(tables, tmp_path / "index", CAPTCHA).groups == 1


def test_a_table_of_another_version_is_named(index, tmp_path):
    index({"one": list(pool())})
    table = pl.read_parquet(tmp_path / "one.parquet").with_columns(signature=pl.lit(b"12345678"))
    table.write_parquet(tmp_path / "one.parquet")
    with pytest.raises(StaleTableError, match="materialize image_table again"):
        build_image_index({"one": tmp_path / "one.parquet"}, tmp_path / "new.parquet", CAPTCHA)


@pytest.mark.parametrize("before", [[], list(pool())[:4]])
def test_a_table_that_is_replaced_while_it_is_read_gives_no_index(tmp_path, monkeypatch, before):
    tables = {"one": write_table(tmp_path / "one.parquet", "one", before)}
    earlier = build_image_index(tables, tmp_path / "index", CAPTCHA).version
    tables["two"] = write_table(tmp_path / "two.parquet", "two", list(pool()))
    original = image_index._BinaryReader.read

    def replaced_meanwhile(*arguments):
        write_table(tables["one"], "one", [("b", B)])
        return original(*arguments)

    monkeypatch.setattr(image_index._BinaryReader, "read", replaced_meanwhile)
    with pytest.raises(StaleTableError, match="was replaced while it was read: materialize image_index"):
        build_image_index(tables, tmp_path / "index", CAPTCHA)
    assert read_manifest(tmp_path / "index").version == earlier


def test_a_damaged_index_is_built_again(index, tmp_path):
    summary, _ = index({"one": list(pool())})
    (tmp_path / "index" / "manifest.json").write_bytes(b"damaged")
    assert index({"one": list(pool())})[0] == summary


def test_an_index_on_an_object_store_is_the_same(index, bucket, tmp_path):
    summary, _ = index({"one": list(pool())})
    (bucket / "one.parquet").write_bytes((tmp_path / "one.parquet").read_bytes())
    for _ in range(2):
        assert build_image_index({"one": bucket / "one.parquet"}, bucket / "index", CAPTCHA) == summary
    assert content(bucket / "index") == content(tmp_path / "index")
