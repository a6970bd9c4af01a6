"""The splits: stable, stratified, leak-free, deterministic, over any history of batches."""

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.reader import sample_keys
from captcha_assets.images.split_assignment import (
    COLUMN_DESCRIPTIONS,
    CONTRADICTED,
    NEAR_DUPLICATE_OF_TWO_SPLITS,
    SPLITS,
    SPLITS_SCHEMA,
    SplitError,
    SplitRatios,
    assign_splits,
    take_sample,
    update_splits,
    with_sample_keys,
)
from captcha_assets.images.split_record import AssignmentRecord, no_assignments
from captcha_assets.images.table_parts import read_manifest, verified_version
from captcha_assets_tests.images.tables import content

RATIOS = SplitRatios()


def identity(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def index_of(images: dict[int, str | None], groups: list[set[int]] = ()) -> pl.DataFrame:
    """An index: number to label (None: in conflict); groups of near-duplicates."""
    tied = {}
    for group in groups:
        members = [number for number in group if images.get(number)]
        name = min(map(identity, members), default=None)
        tied |= dict.fromkeys(members, name)
    return pl.DataFrame(
        {
            "image_id": list(map(identity, images)),
            "label": list(images.values()),
            "status": ["usable" if label else "label_conflict" for label in images.values()],
            "group": [tied.get(number, identity(number)) for number in images],
            "batch": ["one"] * len(images),
            "sources": [[{"batch": "one"}]] * len(images),
        },
        schema=dict.fromkeys(["image_id", "label", "status", "group", "batch"], pl.String)
        | {"sources": pl.List(pl.Struct({"batch": pl.String}))},
    )


def split_by_image(splits: pl.DataFrame) -> dict[str, str]:
    return dict(splits.drop_nulls("split").select("image_id", "split").iter_rows())


# An image is a number; its class and its group follow from the number, so that what arrives later ties
# to what is there. Numbers of one decade are near-duplicates where the decade's chain is unbroken:
# 3 ties 2 and 4, so 2 and 4 are tied only while 3 is there.
NUMBERS = st.sets(st.integers(0, 199), max_size=60)


def label_of(number: int) -> str:
    return "abc"[number // 10 % 3]


def chains(numbers: set[int]) -> list[set[int]]:
    """Groups of consecutive numbers of the decades that hold near-duplicates."""
    groups: list[set[int]] = []
    for number in sorted(numbers):
        tied = number // 10 % 2 == 0 and number % 10 and groups and number - 1 in groups[-1]
        if tied:
            groups[-1].add(number)
        else:
            groups.append({number})
    return groups


def index_after(numbers: set[int], conflicts: set[int]) -> pl.DataFrame:
    usable = numbers - conflicts
    return index_of({n: None if n in conflicts else label_of(n) for n in numbers}, chains(usable))


HISTORY = st.lists(st.tuples(NUMBERS, st.sets(st.integers(0, 199), max_size=3)), min_size=1, max_size=6)


NUMBER_OF = {identity(number): number for number in range(200)}


def regroup(images: pl.DataFrame) -> pl.Series:
    """Near-duplicate groups among these images alone, by their chains."""
    groups = chains({NUMBER_OF[name] for name in images["image_id"]})
    named = {identity(number): min(map(identity, group)) for group in groups for number in group}
    return images["image_id"].replace_strict(named)


def recorded(record: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """The record after a round that assigned these splits."""
    new = splits.drop_nulls("split").join(record, on="image_id", how="anti")
    number = pl.lit(1 + (record["round"].max() or 0), pl.Int32)
    rows = new.with_columns(round=number, contradicted=pl.lit(value=False)).select(record.columns)
    return pl.concat([record, rows])


def follow(history):
    """Yield (index, record before, splits after) of each step; a step is all that is there then."""
    record = no_assignments()
    for numbers, conflicts in history:
        index = index_after(numbers, conflicts)
        splits = assign_splits(index, record, regroup=regroup)
        yield index, record, splits
        record = recorded(record, splits)


@given(HISTORY)
def test_an_image_never_changes_its_split_also_when_it_was_gone(history):
    for _, record, splits in follow(history):
        assigned = dict(record.select("image_id", "split").iter_rows())
        after = split_by_image(splits)
        assert after.items() >= {name: split for name, split in assigned.items() if name in after}.items()


@given(HISTORY)
def test_new_images_take_the_split_of_nobody(history):
    before: dict[str, str] = {}
    usable_before: set[str] = set()
    for index, record, splits in follow(history):
        usable = set(index.filter(pl.col("status") == "usable")["image_id"])
        after = split_by_image(splits)
        if usable >= usable_before and not (usable - usable_before) & set(record["image_id"]):
            assert after.items() >= before.items()
        before, usable_before = after, usable


@given(HISTORY)
def test_a_removed_image_vanishes_and_every_image_of_the_index_is_there(history):
    for index, _, splits in follow(history):
        assert splits["image_id"].to_list() == sorted(index["image_id"])


@given(HISTORY)
def test_near_duplicates_never_lie_in_two_splits(history):
    for (numbers, conflicts), (_, _, splits) in zip(history, follow(history), strict=True):
        after = split_by_image(splits)
        for number in numbers - conflicts:
            if number // 10 % 2 == 0 and number % 10 and number - 1 in numbers - conflicts:
                pair = {after.get(identity(number)), after.get(identity(number - 1))}
                assert len(pair - {None}) <= 1
        groups = splits.drop_nulls("split").group_by("group").agg(pl.col("split").n_unique())
        assert (groups["split"] == 1).all()


@given(HISTORY)
def test_only_images_that_tie_two_splits_or_are_in_conflict_are_exclusion_reason(history):
    for index, _, splits in follow(history):
        rows = splits.join(index.select("image_id", "status", tie="group"), on="image_id")
        in_conflict = rows.filter(pl.col("status") == "label_conflict")
        assert in_conflict["exclusion_reason"].eq("label_conflict").all()
        ties = rows.filter((pl.col("status") == "usable") & pl.col("split").is_null())
        assert ties["exclusion_reason"].eq(NEAR_DUPLICATE_OF_TWO_SPLITS).all()
        torn = (
            rows.drop_nulls("split").group_by("tie").agg(n=pl.col("split").n_unique()).filter(pl.col("n") > 1)
        )
        assert set(ties["tie"]) <= set(torn["tie"])
        assert rows.filter(pl.col("split").is_not_null())["exclusion_reason"].is_null().all()


@given(HISTORY, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_and_a_rerun_changes_nothing(history, random):
    for index, record, splits in follow(history):
        order = list(range(len(index)))
        random.shuffle(order)
        assert assign_splits(index[order], record.reverse(), regroup=regroup).equals(splits)
        assert assign_splits(index, recorded(record, splits), regroup=regroup).equals(splits)


def deviations(splits: pl.DataFrame) -> pl.DataFrame:
    """How many images each class and split is away from its ratio, and the size of the class."""
    shares = pl.DataFrame({"split": SPLITS, "share": RATIOS.shares})
    assigned = splits.drop_nulls("split")
    sizes = assigned.group_by("label").agg(size=pl.len())
    counts = assigned.group_by("label", "split").agg(n=pl.len())
    grid = sizes.join(shares, how="cross").join(counts, on=["label", "split"], how="left").fill_null(0)
    return grid.with_columns(off=(pl.col("n") - pl.col("size") * pl.col("share")).abs())


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_each_class_of_a_growing_set_is_within_one_image_of_its_ratios(sizes):
    record = no_assignments()
    for size in np.cumsum(sizes):
        images = {number: "ab"[number % 7 == 0] for number in range(size)}
        splits = assign_splits(index_of(images), record)
        record = recorded(record, splits)
        off = deviations(splits)
        assert (off["off"] <= 1 + 1e-9).all(), off


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_groups_cost_no_more_than_their_size(sizes):
    ends = np.cumsum([0, *sizes]).tolist()
    groups = [set(range(start, end)) for start, end in pairwise(ends)]
    splits = assign_splits(index_of(dict.fromkeys(range(ends[-1]), "a"), groups), None)
    assert (deviations(splits)["off"] <= max(1, *sizes)).all()


@pytest.mark.parametrize("count", [1, 2, 5, 10, 1000, 3217])
def test_a_large_class_is_within_half_a_percent(count):
    splits = assign_splits(index_of(dict.fromkeys(range(count), "a")), None)
    off = deviations(splits)
    assert (off["off"] <= max(1, 0.005 * count)).all()


def assigned(images: dict[int, str | None]) -> tuple[pl.DataFrame, dict[str, str]]:
    """The record of a first round over these images, and the split of each."""
    splits = assign_splits(index_of(images), None)
    return recorded(no_assignments(), splits), split_by_image(splits)


def one_in(splits: dict[str, str], split: str, among: range = range(200)) -> int:
    return next(number for number in among if splits.get(identity(number)) == split)


def row_of(splits: pl.DataFrame, number: int) -> tuple[str | None, str | None]:
    row = splits.row(by_predicate=pl.col("image_id") == identity(number), named=True)
    return row["split"], row["exclusion_reason"]


def test_later_batches_even_out_what_a_removed_one_left_uneven():
    record, first = assigned(dict.fromkeys(range(100), "a"))
    rest = {n: "a" for n in range(100) if first[identity(n)] == "train"}
    second = assign_splits(index_of(rest), record)
    assert set(second["split"]) == {"train"}
    third = assign_splits(index_of(rest | dict.fromkeys(range(100, 400), "a")), record)
    assert (deviations(third)["off"] <= 1).all()


def apart(images: pl.DataFrame) -> pl.Series:
    """No image is a near-duplicate of another one."""
    return images["image_id"]


def test_a_new_image_that_ties_two_splits_is_excluded_and_no_image_moves():
    images = dict.fromkeys(range(40), "a")
    record, before = assigned(images)
    one, other = one_in(before, "train"), one_in(before, "test")
    after = assign_splits(index_of(images | {99: "a"}, [{one, 99, other}]), record, regroup=apart)
    assert split_by_image(after) == before
    assert row_of(after, 99) == (None, NEAR_DUPLICATE_OF_TWO_SPLITS)
    without_one = {number: label for number, label in images.items() if number != one}
    later = assign_splits(index_of(without_one | {99: "a"}, [{99, other}]), record, regroup=apart)
    assert split_by_image(later)[identity(99)] == "test"


def test_a_new_image_follows_its_near_duplicates():
    images = dict.fromkeys(range(40), "a")
    record, _ = assigned(images)
    groups = [{number, number + 100} for number in images]
    after = split_by_image(
        assign_splits(index_of(images | dict.fromkeys(range(100, 140), "a"), groups), record)
    )
    assert all(after[identity(number)] == after[identity(number + 100)] for number in images)


def test_an_image_found_in_conflict_leaves_and_comes_back_to_its_split():
    images = dict.fromkeys(range(40), "a")
    record, before = assigned(images)
    during = split_by_image(assign_splits(index_of(images | {7: None}), record))
    assert before.items() - during.items() == {(identity(7), before[identity(7)])}
    assert split_by_image(assign_splits(index_of(images), record)) == before


def test_a_relabelled_image_keeps_its_split():
    images = dict.fromkeys(range(40), "a")
    record, before = assigned(images)
    assert split_by_image(assign_splits(index_of(images | {7: "b"}), record)) == before


def test_a_relabelled_image_that_ties_two_splits_is_excluded_and_has_its_split_again_later():
    images = dict.fromkeys(range(40), "a") | {99: "b"}
    record, before = assigned(images)
    assert before[identity(99)] == "train"
    test = one_in(before, "test")
    relabelled = assign_splits(index_of(images | {99: "a"}, [{99, test}]), record)
    assert row_of(relabelled, 99) == (None, NEAR_DUPLICATE_OF_TWO_SPLITS)
    assert split_by_image(relabelled)[identity(test)] == "test"
    assert split_by_image(assign_splits(index_of(images), record)) == before


def test_a_near_duplicate_that_came_while_the_first_was_removed_is_excluded_when_that_returns():
    images = dict.fromkeys(range(40), "a")
    record, before = assigned(images)
    one = one_in(before, "train")
    rest = {number: label for number, label in images.items() if number != one}
    meanwhile = assign_splits(index_of(rest | dict.fromkeys(range(100, 140), "a")), record)
    record = recorded(record, meanwhile)
    later = one_in(split_by_image(meanwhile), "test", range(100, 140))
    back = assign_splits(index_of(images | dict.fromkeys(range(100, 140), "a"), [{one, later}]), record)
    assert row_of(back, one) == ("train", None)
    assert row_of(back, later) == (None, NEAR_DUPLICATE_OF_TWO_SPLITS)


def test_an_image_that_two_machines_assigned_differently_is_excluded():
    images = dict.fromkeys(range(40), "a")
    record, before = assigned(images)
    twice = record.with_columns(contradicted=pl.col("image_id") == identity(7))
    after = assign_splits(index_of(images | {99: "a"}, [{7, 99}]), twice)
    assert row_of(after, 7) == (None, CONTRADICTED)
    assert {name: split for name, split in before.items() if name != identity(7)}.items() <= split_by_image(
        after
    ).items()


@given(HISTORY, st.integers(0, 80), st.integers(0, 80))
def test_a_larger_sample_contains_the_smaller_one(history, one, other):
    *_, (_, _, splits) = follow(history)
    small, large = (set(take_sample(splits, size)["image_id"]) for size in sorted((one, other)))
    assert small <= large
    assert len(small) == min(one, other, len(split_by_image(splits)))
    assert set(take_sample(splits, None)["image_id"]) == set(split_by_image(splits))


@given(st.integers(1, 400))
def test_a_sample_is_stratified_by_split_and_class(size):
    splits = assign_splits(index_of({n: "abc"[n % 3] for n in range(400)}), None)
    assert with_sample_keys(splits)["sample_key"].is_between(0, 1, closed="left").all()
    whole = splits.group_by("split", "label").agg(all=pl.len())
    part = take_sample(splits, size).group_by("split", "label").agg(n=pl.len())
    counts = whole.join(part, on=["split", "label"], how="left").fill_null(0)
    assert ((counts["n"] - counts["all"] * size / 400).abs() <= 1.5).all()


@given(HISTORY)
def test_the_keys_of_a_sample_are_the_same_without_polars(history):
    *_, (_, _, splits) = follow(history)
    assigned = with_sample_keys(splits.drop_nulls("split"))
    assert sample_keys(assigned.drop("sample_key").to_arrow()).tolist() == assigned["sample_key"].to_list()


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (1.1, -0.1, 0.0)])
def test_ratios_that_make_no_sense_are_rejected(shares):
    with pytest.raises(SplitError, match="sum to 1"):
        SplitRatios(*shares)


def test_a_split_can_be_left_empty():
    splits = assign_splits(index_of(dict.fromkeys(range(50), "a")), None, SplitRatios(0.9, 0.1, 0.0))
    assert splits["split"].value_counts(sort=True).rows() == [("train", 45), ("validation", 5)]


def write_index(path, images, groups=()):
    index_of(images, groups).write_parquet(path)
    return path


@pytest.fixture
def record(tmp_path: Path) -> AssignmentRecord:
    return AssignmentRecord(tmp_path / "data" / "splits", tmp_path / "scratch")


def test_the_file_is_updated_in_place_and_summed_up(tmp_path, record):
    target = tmp_path / "splits"
    index = write_index(tmp_path / "index.parquet", dict.fromkeys(range(100), "a") | {100: None})
    first = update_splits(index, target, record, CAPTCHA)
    assert (first.train, first.validation, first.test, first.excluded) == (70, 20, 10, 1)
    assert (first.new, first.removed) == (100, 0)
    assert first.by_class == {"a": {"train": 70, "validation": 20, "test": 10}}
    assert first.version == verified_version(target)
    assert pq.read_schema(read_manifest(target).files()[0]).equals(SPLITS_SCHEMA)
    assert set(COLUMN_DESCRIPTIONS) == set(SPLITS_SCHEMA.names)
    write_index(index, dict.fromkeys(range(50, 110), "a"))
    second = update_splits(index, target, record, CAPTCHA)
    assert (second.new, second.removed) == (10, 50)


def test_a_rerun_gives_the_same_bytes_and_records_nothing(tmp_path, record):
    target = tmp_path / "splits"
    index = write_index(tmp_path / "index.parquet", dict.fromkeys(range(100), "a"))
    first = update_splits(index, target, record, CAPTCHA)
    before, files = content(target), record.files()
    again = update_splits(index, target, record, CAPTCHA)
    assert content(target) == before
    assert (again.version, again.new) == (first.version, 0)
    assert record.files() == files


def test_splits_on_an_object_store_are_the_same(tmp_path, bucket, record):
    index = write_index(tmp_path / "index.parquet", dict.fromkeys(range(100), "a"))
    (bucket / "index.parquet").write_bytes(index.read_bytes())
    local = update_splits(index, tmp_path / "splits", record, CAPTCHA)
    stored = AssignmentRecord(tmp_path / "other", tmp_path / "scratch")
    for _ in range(2):
        there = update_splits(bucket / "index.parquet", bucket / "splits", stored, CAPTCHA)
        assert there.version == local.version


@settings(max_examples=5)
@given(st.integers(0, 5))
def test_an_index_without_images_gives_splits_without_images(conflicts):
    splits = assign_splits(index_of(dict.fromkeys(range(conflicts))), None)
    assert len(splits) == conflicts
    assert split_by_image(splits) == {}


def test_another_batch_of_the_same_images_changes_nothing() -> None:
    index = index_of(dict.fromkeys(range(30), "a"))
    splits = assign_splits(index, None)
    record = recorded(no_assignments(), splits)
    # a batch whose name sorts before the first one's brings the same images again
    both = pl.lit([{"batch": "earlier"}, {"batch": "one"}], index.schema["sources"])
    again = index.with_columns(batch=pl.lit("earlier"), sources=both)
    assert assign_splits(again, record).equals(splits)
    # and when the batch that brought them first is removed, the other one stands for them
    only = pl.lit([{"batch": "earlier"}], index.schema["sources"])
    left = assign_splits(again.with_columns(sources=only), record)
    assert left["batch"].unique().to_list() == ["earlier"]
    assert left.drop("batch").equals(splits.drop("batch"))
