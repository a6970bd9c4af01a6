import dataclasses
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.quality import suites, validation, validation_result, validation_runs
from captcha_assets.quality.derived_tables import ValidationError
from captcha_assets.quality.validation_result import ExpectationResult, ValidationResult
from captcha_assets_tests.quality import tables

Spoil = Callable[[pl.DataFrame], pl.DataFrame]


def not_passed(validated: ValidationResult) -> set[str]:
    return {result.name for result in validated.results if not result.success}


def found(validated: ValidationResult, name: str) -> ExpectationResult:
    return next(result for result in validated.results if result.name == name)


def values_where(here: pl.Expr, **values: object) -> Spoil:
    """Replace values of some rows."""
    return lambda frame: frame.with_columns(
        pl.when(here).then(pl.lit(value, frame.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def row(number: int, **values: object) -> Spoil:
    return values_where(pl.int_range(pl.len()) == number, **values)


def first(share: float, **values: object) -> Spoil:
    return values_where(pl.int_range(pl.len()) < share * pl.len(), **values)


def twice(number: int) -> Spoil:
    return lambda frame: pl.concat([frame, frame[number]])


def validate_batch(
    folder: Path, table: pl.DataFrame, rejected: pl.DataFrame | None = None
) -> ValidationResult:
    path = tables.write(table, folder / "first.parquet")
    rejects = tables.write(tables.rejected() if rejected is None else rejected, folder / "rejected.parquet")
    return validation.validate_image_table(path, rejects, CAPTCHA)


def validate_index(folder: Path, index: pl.DataFrame) -> ValidationResult:
    return validation.validate_image_index(tables.write(index, folder / "index.parquet"), CAPTCHA)


def recorded(folder: Path, splits: pl.DataFrame) -> AssignmentRecord:
    """A record of what these splits say; it is what a sound update would have recorded."""
    record = AssignmentRecord(folder / "data", folder / "scratch")
    if not record.files() and splits.schema["split"] == pl.String:
        rows = splits.drop_nulls("split").filter(pl.col("image_id").str.len_chars() == 32)
        rows = rows.unique("image_id", keep="first").select(
            "image_id", "split", "label", batch=pl.lit("first")
        )
        record.append(rows)
    return record


def validate_splits(folder: Path, splits: pl.DataFrame, index: pl.DataFrame) -> ValidationResult:
    return validation.validate_splits(
        tables.write(splits, folder / "splits.parquet"),
        tables.write(index, folder / "index.parquet"),
        recorded(folder, splits),
        CAPTCHA,
    )


def names(asset: str) -> list[str]:
    return list(suites.expectations(asset, CAPTCHA))


# --- a batch


def test_a_sound_batch_passes_every_check(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table())
    assert not_passed(validated) == set()
    assert [result.name for result in validated.results] == names("image_table")
    assert (validated.subject, validated.rows, validated.passed) == ("image_table/first", 420, True)
    assert not any(result.examples or result.unexpected_count for result in validated.results)


@pytest.mark.parametrize(
    ("spoil", "check", "example"),
    [
        (lambda table: table.drop("dhash"), "columns_and_types", {"column": "dhash", "type": "missing"}),
        (
            lambda table: table.with_columns(pl.col("brightness").cast(pl.Float64)),
            "columns_and_types",
            {"column": "brightness", "type": "Float64", "expected_type": "Float32"},
        ),
        (row(3, label=None), "no_empty_values", {"column": "label", "empty_values": 1}),
        (
            row(3, foreground_fraction=float("nan")),
            "no_empty_values",
            {"column": "foreground_fraction", "empty_values": 1},
        ),
        (lambda table: table.clear(), "not_empty", None),
        (row(3, member="Dataset/2_00000.png"), "unique_members", {"member": "Dataset/2_00000.png"}),
        (row(3, label="z"), "labels_in_alphabet", {"member": "Dataset/5_00003.png", "label": "z"}),
        (row(3, label="N"), "labels_in_alphabet", {"member": "Dataset/5_00003.png", "label": "N"}),
        (
            row(3, pixels=bytes(CAPTCHA.pixel_bytes - 1)),
            "image_size",
            {"member": "Dataset/5_00003.png", "pixel_bytes": CAPTCHA.pixel_bytes - 1},
        ),
        (first(0.06, brightness=252.0), "brightness_in_range", {"label": "2", "brightness": 252.0}),
        (first(0.06, contrast=3.0), "contrast_in_range", {"label": "2", "contrast": 3.0}),
        (
            first(0.06, foreground_fraction=0.0),
            "foreground_fraction_in_range",
            {"label": "2", "foreground_fraction": 0.0},
        ),
        (lambda table: table.filter(pl.col("label") != "a"), "every_class_present", None),
        (
            lambda table: table.filter((pl.col("label") != "a") | (pl.col("dhash") < 21)),
            "class_balance",
            {"label": "a", "images": 1},
        ),
        (
            lambda table: table.vstack(
                table.filter(pl.col("label") == "n").with_columns(member="again/" + pl.col("member"))
            ),
            "class_balance",
            {"label": "n", "images": 80},
        ),
    ],
)
def test_a_fault_of_a_batch_fails_its_own_check_and_is_shown(tmp_path, spoil, check, example):
    validated = validate_batch(tmp_path, spoil(tables.image_table()))
    vacuous = {"every_class_present"} if check == "not_empty" else set()
    wrong_columns = {"image_size", "class_balance", "brightness_in_range"}
    concerned = wrong_columns if check == "columns_and_types" else set()
    assert not_passed(validated) - vacuous - concerned == {check}
    result = found(validated, check)
    assert not result.success
    if example is not None:
        assert result.examples[0].items() >= example.items()
        assert result.unexpected_count >= 1


def test_statistics_out_of_range_are_borne_in_a_few_images_and_yet_shown(tmp_path):
    validated = validate_batch(
        tmp_path, row(3, brightness=252.0, foreground_fraction=0.0)(tables.image_table())
    )
    for check, column, value in (
        ("brightness_in_range", "brightness", 252.0),
        ("foreground_fraction_in_range", "foreground_fraction", 0.0),
    ):
        result = found(validated, check)
        assert result.success
        assert result.unexpected_count == 1
        assert [(one["label"], one[column]) for one in result.examples] == [("5", value)]


def test_at_most_ten_examples_are_shown_and_all_are_counted(tmp_path):
    validated = validate_batch(tmp_path, first(0.5, label="z")(tables.image_table()))
    result = found(validated, "labels_in_alphabet")
    assert len(result.examples) == 10
    assert result.unexpected_count == 210
    assert "210 of 420 rows" in result.observed


def test_a_batch_without_a_usable_image_says_that_none_was_found(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table().clear(), tables.rejected(3))
    assert found(validated, "not_empty").observed == "0"


def test_a_batch_that_is_mostly_bad_fails_and_shows_some_of_each_reason(tmp_path):
    rejects = pl.concat([tables.rejected(450), tables.rejected(3, "wrong_size")])
    validated = validate_batch(tmp_path, tables.image_table(), rejects)
    assert not_passed(validated) == {"share_of_rejects", "few_rejects"}
    assert not validated.passed
    result = found(validated, "share_of_rejects")
    assert [one["reason"] for one in result.examples].count("wrong_size") == 3
    assert "453 of 873" in result.observed
    assert result.unexpected_count == 453


def test_some_rejected_members_only_warn(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table(), tables.rejected(40))
    assert validated.passed
    assert [result.name for result in validated.warnings] == ["few_rejects"]


def test_a_handful_of_rejected_members_passes_and_shows_them(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table(), tables.rejected(4))
    assert not_passed(validated) == set()
    assert len(found(validated, "few_rejects").examples) == 4


def test_a_batch_of_nothing_but_rejected_members_fails(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table().clear(), tables.rejected(4))
    assert {result.name for result in validated.failures} == {"not_empty", "share_of_rejects"}


@pytest.mark.parametrize(
    ("spoil", "check", "words", "expected"),
    [
        (
            row(3, label="z"),
            "labels_in_alphabet",
            (
                f"the column label has a value that is none of {' '.join(CAPTCHA.classes)} in 1 of 420 rows "
                "(0.238 %), for example member Dataset/5_00003.png, label z"
            ),
            "every label is one of the known classes",
        ),
        (
            first(0.06, brightness=252.0),
            "brightness_in_range",
            (
                "the column brightness is not between 40 and 240 in 26 of 420 rows (6.19 %, where at most "
                "5 % are accepted), for example member Dataset/2_00000.png, label 2, brightness 252"
            ),
            "the brightness of hardly any image is implausible",
        ),
        (
            row(3, member="Dataset/2_00000.png"),
            "unique_members",
            (
                "the column member has a value that another row has too in 2 of 420 rows (0.476 %), for "
                "example member Dataset/2_00000.png, label 2"
            ),
            "no file of the batch is taken twice",
        ),
        (
            lambda table: table.drop("dhash"),
            "columns_and_types",
            (
                "the columns type and expected_type differ in 1 of 13 rows (7.69 %), for example column "
                "dhash, type missing, expected_type UInt64"
            ),
            "every column is there, and of its type",
        ),
        (lambda table: table.clear(), "not_empty", "found 0", "the batch holds usable images"),
        (
            lambda table: table.filter(pl.col("label") != "a"),
            "every_class_present",
            "no row has the label a",
            "every class has images; a partial batch need not",
        ),
    ],
)
def test_what_a_failed_check_found_is_said_in_plain_words(tmp_path, spoil, check, words, expected):
    result = found(validate_batch(tmp_path, spoil(tables.image_table())), check)
    assert result.problem == f"{words}; expected: {expected}"


@pytest.mark.parametrize("labels", ["a", "23456", "mn"])
def test_a_partial_batch_only_warns(tmp_path, labels):
    partial = tables.image_table().filter(pl.col("label").is_in(list(labels)))
    validated = validate_batch(tmp_path, partial)
    assert validated.passed
    assert [result.name for result in validated.warnings] == ["every_class_present"]
    absent = " ".join(name for name in CAPTCHA.classes if name not in labels)
    assert found(validated, "every_class_present").observed.startswith(f"missing: {absent[:19]}")


def test_what_needs_a_column_of_the_wrong_type_fails_without_a_traceback(tmp_path):
    validated = validate_batch(tmp_path, tables.image_table().with_columns(label=pl.lit(7)))
    failed = {"columns_and_types", "labels_in_alphabet", "image_size", "every_class_present", "class_balance"}
    assert not_passed(validated) == failed
    observed = found(validated, "labels_in_alphabet").observed
    assert observed == 'could not be validated: Error: The column "label" in BatchData does not exist.'
    assert "Traceback" not in json.dumps(dataclasses.asdict(validated))


def test_the_unexpected_rows_are_shown_with_their_images(tmp_path):
    table = row(3, label="z")(tables.image_table())
    validated = validate_batch(tmp_path, table)
    assert list(validated.images) == [table["image_id"][3]]


# --- the index


def grouped(index: pl.DataFrame, *groups: tuple[int, ...]) -> pl.DataFrame:
    """Tie rows of one class, by their number within class 2, into near-duplicate groups."""
    ids = index.filter(pl.col("label") == "2")["image_id"]
    for members in groups:
        named = [ids[member] for member in members]
        inside = pl.col("image_id").is_in(named)
        index = index.with_columns(group=pl.when(inside).then(pl.lit(min(named))).otherwise("group"))
    return index


def contradicted(number: int) -> Spoil:
    return row(number, status="label_conflict", label=None)


def test_a_sound_index_passes_every_check(tmp_path):
    index = contradicted(7)(grouped(tables.image_index(), (0, 1, 2), (5, 6)))
    validated = validate_index(tmp_path, index)
    assert not_passed(validated) == set()
    assert [result.name for result in validated.results] == names("image_index")


@pytest.mark.parametrize(
    ("spoil", "checks"),
    [
        (row(3, batch=None), {"no_empty_values"}),
        (twice(3), {"unique_images"}),
        (row(3, label="z"), {"labels_in_alphabet"}),
        (row(3, label=None), {"usable_images_labelled"}),
        (row(3, status="label_conflict"), {"conflicts_unlabelled"}),
        (row(3, status="odd"), {"known_status"}),
        (row(3, status="odd", label=None), {"known_status"}),
        (row(3, group="nobody"), {"groups_consistent", "groups_named_after_smallest"}),
        (lambda index: row(3, group=index["image_id"][4])(index), {"groups_named_after_smallest"}),
        (
            lambda index: row(4, group=index["image_id"][3])(row(3, group=index["image_id"][2])(index)),
            {"groups_consistent"},
        ),
        (first(0.02, status="label_conflict", label=None), {"share_of_conflicts"}),
    ],
)
def test_a_fault_of_the_index_fails_its_own_check_and_is_shown(tmp_path, spoil, checks):
    validated = validate_index(tmp_path, spoil(tables.image_index()))
    assert not_passed(validated) == checks
    for result in (found(validated, check) for check in checks):
        assert result.examples
        assert result.unexpected_count >= 1
    assert validated.passed == (checks == {"share_of_conflicts"})


def test_images_with_contradicting_labels_are_shown_with_all_their_sources(tmp_path):
    index = tables.image_index()
    sources = [
        {"batch": "one", "member": "2_1.png", "label": "2"},
        {"batch": "two", "member": "3_1.png", "label": "3"},
    ]
    index = contradicted(3)(index).with_columns(
        sources=pl.when(pl.int_range(pl.len()) == 3)
        .then(pl.lit(pl.Series([sources])).first())
        .otherwise("sources")
    )
    (example,) = found(validate_index(tmp_path, index), "share_of_conflicts").examples
    assert example["image_id"] == index["image_id"][3]
    assert example["sources"] == "one/2_1.png: 2; two/3_1.png: 3"


# --- the splits


def in_splits(*places: str) -> Spoil:
    """Put the first images of class 2 into these splits."""

    def spoil(splits: pl.DataFrame) -> pl.DataFrame:
        ids = splits.filter(pl.col("label") == "2")["image_id"]
        for image_id, place in zip(ids, places, strict=False):
            splits = values_where(pl.col("image_id") == image_id, split=place)(splits)
        return splits

    return spoil


def test_sound_splits_pass_every_check(tmp_path):
    index = contradicted(7)(grouped(tables.image_index(), (0, 1, 2), (5, 6)))
    splits = row(7, split=None, exclusion_reason="label_conflict")(tables.splits(index))
    validated = validate_splits(tmp_path, splits, index)
    assert not_passed(validated) == set()
    assert [result.name for result in validated.results] == names("splits")


@pytest.mark.parametrize(
    ("spoil", "checks"),
    [
        (row(3, batch=None), {"no_empty_values"}),
        (twice(3), {"unique_images"}),
        (
            lambda splits: splits.vstack(row(3, split="test")(splits)[3:4]),
            {"unique_images", "no_group_in_two_splits", "assignments_kept"},
        ),
        (row(3, split=None), {"split_or_reason"}),
        (row(3, exclusion_reason="whim"), {"split_or_reason"}),
        (row(3, split=None, exclusion_reason="whim"), {"split_or_reason"}),
        (row(3, split="dev"), {"split_or_reason"}),
        (
            row(3, image_id="nobody"),
            {"images_in_index", "labels_as_in_index", "no_image_missing", "assignments_kept"},
        ),
        (lambda splits: splits.filter(pl.int_range(pl.len()) != 3), {"no_image_missing"}),
        (in_splits("test", "test"), {"ratios_exact"}),
        (in_splits("test", "test", "test", "test"), {"ratios", "ratios_exact"}),
        (first(0.02, split=None, exclusion_reason="near_duplicate_of_two_splits"), {"share_of_excluded"}),
    ],
)
def test_a_fault_of_the_splits_fails_its_own_check_and_is_shown(tmp_path, spoil, checks):
    index = tables.image_index()
    validated = validate_splits(tmp_path, spoil(tables.splits(index)), index)
    assert not_passed(validated) == checks
    assert all(result.examples and result.unexpected_count for result in validated.failures)


def test_splits_of_the_wrong_type_fail_whatever_needs_them(tmp_path):
    index = tables.image_index()
    validated = validate_splits(tmp_path, tables.splits(index).with_columns(split=pl.lit(1)), index)
    assert {"columns_and_types", "split_or_reason", "no_group_in_two_splits"} <= not_passed(validated)


def test_another_label_than_in_the_index_fails(tmp_path):
    index = tables.image_index(50)
    number = index.with_row_index().filter(pl.col("label") == "n")["index"][0]
    validated = validate_splits(tmp_path, row(number, label="m")(tables.splits(index)), index)
    assert not_passed(validated) <= {"labels_as_in_index", "ratios_exact"}
    (example,) = found(validated, "labels_as_in_index").examples
    assert (example["image_id"], example["label_in_index"]) == (index["image_id"][number], "n")


def test_a_near_duplicate_group_in_two_splits_fails_and_its_images_are_shown(tmp_path):
    index = grouped(tables.image_index(), (0, 13))
    splits = in_splits("test", *["train"] * 13)(tables.splits(index))
    validated = validate_splits(tmp_path, splits, index)
    leaks = {"no_group_in_two_splits", "no_near_duplicate_in_two_splits"}
    assert not_passed(validated) == leaks
    ids = index.filter(pl.col("label") == "2")["image_id"]
    (image,) = found(validated, "no_group_in_two_splits").examples
    assert (image["image_id"], image["split"], image["split_of_group"]) == (ids[13], "train", "test")
    (pair,) = found(validated, "no_near_duplicate_in_two_splits").examples
    assert {pair["image_id"], pair["near_duplicate"]} == {ids[0], ids[13]}


def test_near_duplicates_in_two_splits_fail_even_where_the_splits_deny_their_group(tmp_path):
    index = grouped(tables.image_index(), (0, 13))
    splits = in_splits("test", *["train"] * 13)(tables.splits(index)).with_columns(group="image_id")
    assert not_passed(validate_splits(tmp_path, splits, index)) == {"no_near_duplicate_in_two_splits"}


def test_a_group_in_two_splits_passes_while_the_image_that_ties_it_is_held_back(tmp_path):
    index = grouped(tables.image_index(), (0, 1, 13))
    splits = in_splits("test", *["train"] * 13)(tables.splits(index)).with_columns(group="image_id")
    assert "no_near_duplicate_in_two_splits" in not_passed(validate_splits(tmp_path, splits, index))
    tie = index.filter(pl.col("label") == "2")["image_id"][1]
    held = values_where(
        pl.col("image_id") == tie, split=None, exclusion_reason="near_duplicate_of_two_splits"
    )
    assert "no_near_duplicate_in_two_splits" not in not_passed(validate_splits(tmp_path, held(splits), index))


def test_an_image_with_contradicting_labels_in_a_split_fails(tmp_path):
    index = tables.image_index()
    validated = validate_splits(tmp_path, tables.splits(index), contradicted(3)(index))
    assert not_passed(validated) == {"no_conflict_in_split", "labels_as_in_index"}
    (example,) = found(validated, "no_conflict_in_split").examples
    assert example["image_id"] == index["image_id"][3]


def test_a_class_that_is_one_near_duplicate_group_need_not_be_spread(tmp_path):
    index = grouped(tables.image_index(), tuple(range(20)))
    splits = in_splits(*["train"] * 20)(tables.splits(index))
    assert not_passed(validate_splits(tmp_path, splits, index)) == set()


def test_an_image_in_another_split_than_the_recorded_one_stops_the_flow(tmp_path):
    index = tables.image_index()
    sound = tables.splits(index)
    recorded(tmp_path, sound)
    split = sound["split"][3]
    other = "train" if split == "test" else "test"
    validated = validate_splits(tmp_path, row(3, split=other)(sound), index)
    kept = found(validated, "assignments_kept")
    assert kept.level == "failed"
    (example,) = kept.examples
    assert (example["split"], example["recorded_split"]) == (other, split)


def test_removed_images_leave_uneven_ratios_that_only_warn(tmp_path):
    index = tables.image_index()
    sound = tables.splits(index)
    recorded(tmp_path, sound)
    gone = (pl.col("split") == "train") & pl.col("label").is_in(["2", "3"])
    left = sound.filter(~gone)
    validated = validate_splits(tmp_path, left, index.join(left, on="image_id", how="semi"))
    assert not_passed(validated) == {"ratios"}
    assert validated.passed
    assert found(validated, "ratios").observed.endswith(": 2, 3")


def test_the_images_of_a_pair_come_from_the_tables_of_their_batches(tmp_path):
    index = grouped(tables.image_index(), (0, 13))
    splits = in_splits("test", *["train"] * 13)(tables.splits(index))
    validated = validation.validate_splits(
        tables.write(splits, tmp_path / "splits.parquet"),
        tables.write(index, tmp_path / "index.parquet"),
        recorded(tmp_path, splits),
        CAPTCHA,
        {
            "first": tables.write(tables.image_table(), tmp_path / "first.parquet"),
            "other": tmp_path / "absent",
        },
    )
    ids = index.filter(pl.col("label") == "2")["image_id"]
    assert set(validated.images) == {ids[0], ids[13]}


# --- how it is done


def test_every_check_can_be_the_name_of_an_asset_check_and_says_what_it_is_for():
    for asset, names in suites.SUITES_OF_ASSET.items():
        checks = suites.expectations(asset, CAPTCHA)
        assert len(checks) == sum(len(suites.SUITES[name](CAPTCHA)) for name in names), "a name stands twice"
        assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) and one.notes for name, one in checks.items())


@pytest.mark.parametrize(
    ("type_", "arguments", "success"),
    [
        ("ExpectCompoundColumnsToBeUnique", {"column_list": ["label", "member"]}, True),
        ("ExpectCompoundColumnsToBeUnique", {"column_list": ["label", "source_mode"]}, False),
        ("ExpectColumnValueLengthsToEqual", {"column": "image_id", "value": 32}, True),
        ("ExpectColumnValuesToMatchRegex", {"column": "member", "regex": r"^Dataset/\w_\d+\.png$"}, True),
        ("ExpectColumnMeanToBeBetween", {"column": "brightness", "min_value": 200}, False),
    ],
)
def test_an_expectation_that_somebody_adds_is_validated_as_it_stands(
    tmp_path, monkeypatch, type_, arguments, success
):
    added = suites.Expectation("What somebody wants.", "warning", type_, arguments)
    monkeypatch.setattr(suites, "SUITES", suites.SUITES | {"image_table": lambda _spec: {"added": added}})
    result = found(validate_batch(tmp_path, tables.image_table()), "added")
    assert result.success == success, result.observed
    assert result.problem.endswith("" if success else "; expected: what somebody wants")


def test_a_table_that_is_absent_or_broken_is_named_in_one_error(tmp_path):
    with pytest.raises(ValidationError, match=r"absent\.parquet does not exist: materialize"):
        validation.validate_image_index(tmp_path / "absent.parquet", CAPTCHA)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValidationError, match=r"broken\.parquet cannot be read as Parquet"):
        validation.validate_image_index(tmp_path / "broken.parquet", CAPTCHA)


def test_validating_prints_nothing_and_asks_nobody(tmp_path, capfd, monkeypatch):
    def no_connection(*args: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", no_connection)
    monkeypatch.setattr(socket, "getaddrinfo", no_connection)
    index = tables.image_index()
    assert (
        validate_batch(tmp_path, tables.image_table().drop("foreground_fraction"), tables.rejected(5)).rows
        == 420
    )
    assert validate_splits(tmp_path, twice(3)(tables.splits(index)), index).rows == 421
    assert capfd.readouterr() == ("", "")


def test_the_same_tables_give_the_same_validation_results(tmp_path):
    index = tables.image_index()
    splits = first(0.1, split="test")(tables.splits(index))
    one, other = (
        validation.validate_splits(
            tables.write(splits, tmp_path / "splits.parquet"),
            tables.write(index, tmp_path / "index.parquet"),
            recorded(tmp_path, splits),
            CAPTCHA,
        )
        for _ in range(2)
    )
    assert one == other


def test_the_order_of_the_rows_changes_no_outcome(tmp_path):
    index = grouped(tables.image_index(), (0, 13))
    torn = in_splits("test", *["train"] * 13)(tables.splits(index)).filter(pl.int_range(pl.len()) != 9)
    first, second = (
        validate_splits(tmp_path, one, index) for one in (torn, torn.sample(fraction=1, shuffle=True))
    )
    assert {"no_near_duplicate_in_two_splits", "no_image_missing"} <= not_passed(first)
    assert [(one.success, one.unexpected_count) for one in first.results] == [
        (one.success, one.unexpected_count) for one in second.results
    ]


def test_a_table_in_an_object_store_is_validated_like_a_local_one(tmp_path, bucket):
    table, rejects = row(3, label="z")(tables.image_table()), tables.rejected(3)
    local = validate_batch(tmp_path, table, rejects)
    for name in ("first", "rejected"):
        bucket.fs.put_file(str(tmp_path / f"{name}.parquet"), (bucket / f"{name}.parquet").path)
    rejected = bucket / "rejected.parquet"
    assert validation.validate_image_table(bucket / "first.parquet", rejected, CAPTCHA) == local


# --- what was validated before


def in_batches(count: int) -> Spoil:
    """Divide the rows among so many batches."""
    named = pl.format("batch-{}", pl.int_range(pl.len()) % count)
    return lambda frame: frame.with_columns(batch=named)


def validated_rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note the suite and the number of rows of each table that Great Expectations is given from now on."""
    seen = []
    original = validation._validated

    def spy(data, suite, expectations, table):
        seen.append((suite.name, len(table)))
        return original(data, suite, expectations, table)

    monkeypatch.setattr(validation, "_validated", spy)
    return seen


def of_index(folder: Path, index: pl.DataFrame) -> ValidationResult:
    """Validate an index after what was validated in the folder before, and store the results there."""
    path = tables.write(index, folder / "index.parquet")
    result = validation.validate_image_index(path, CAPTCHA, before=folder / "results")
    validation_result.save(result, "", folder / "results")
    return result


def figures(validated: ValidationResult) -> list[dict[str, object]]:
    """What the results say, but for the examples, which come in another order."""
    return [
        {"success": one["success"], "config": one["expectation_config"]}
        | {name: value for name, value in one["result"].items() if not name.startswith("partial_")}
        for suite in validated.suites
        for one in suite["results"]
    ]


SOUND = contradicted(7)(grouped(in_batches(4)(tables.image_index()), (0, 1, 2)))


def test_only_rows_that_were_not_validated_before_are_validated(tmp_path, monkeypatch):
    of_index(tmp_path, SOUND.filter(pl.col("batch") != "batch-3"))
    seen = validated_rows(monkeypatch)
    of_index(tmp_path, SOUND)
    assert seen == [("image_index", 105)]
    seen.clear()
    of_index(tmp_path, SOUND)
    assert seen == []
    of_index(tmp_path, row(7, label="z")(SOUND))  # of batch-3
    assert seen == [("image_index", 105)]
    of_index(tmp_path, SOUND)
    seen.clear()
    of_index(tmp_path, SOUND.filter(pl.col("batch") != "batch-0"))
    assert seen == [("image_index", 210)]  # those that were validated together with what is gone


@pytest.mark.parametrize(
    "spoil",
    [
        lambda index: index,
        row(11, label="z"),
        row(11, batch=None),
        lambda index: row(3, image_id=index["image_id"][4])(index),  # of another batch
        first(0.5, status="label_conflict", label=None),
        lambda index: row(4, group=index["image_id"][3])(row(3, group=index["image_id"][2])(index)),
        lambda index: index.with_columns(label=pl.lit(1)),
        lambda index: index.drop("batch"),
        lambda index: index.clear(),
    ],
)
def test_results_that_were_kept_and_new_ones_are_those_of_the_whole_table(tmp_path, spoil):
    of_index(tmp_path, SOUND.filter(pl.col("batch") == "batch-1"))
    of_index(tmp_path, SOUND.filter(pl.col("batch") != "batch-3"))
    grown, whole = of_index(tmp_path, spoil(SOUND)), validate_index(tmp_path, spoil(SOUND))
    assert figures(grown) == figures(whole)
    assert [len(one.examples) for one in grown.results] == [len(one.examples) for one in whole.results]
    assert (grown.rows, grown.state) == (whole.rows, whole.state)


def test_an_expectation_of_the_whole_table_is_validated_on_the_whole_table(tmp_path, monkeypatch):
    mean = suites.Expectation("", "warning", "ExpectColumnMeanToBeBetween", {"column": "copies"})
    monkeypatch.setattr(suites, "SUITES", suites.SUITES | {"image_index": lambda _spec: {"mean": mean}})
    of_index(tmp_path, SOUND.filter(pl.col("batch") != "batch-3"))
    seen = validated_rows(monkeypatch)
    of_index(tmp_path, SOUND)
    assert seen == [("image_index", 420)]


def test_runs_that_somebody_edited_are_not_used(tmp_path, monkeypatch):
    of_index(tmp_path, SOUND)
    runs = tmp_path / "results" / "runs.json"
    runs.write_text(runs.read_text().replace('"success": true', '"success": false'))
    seen = validated_rows(monkeypatch)
    assert of_index(tmp_path, SOUND).passed
    assert seen == [("columns", 11), ("image_index", 420)]


def test_many_small_runs_become_few_large_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(validation_runs, "_MOST_RUNS", 3)
    table = in_batches(6)(tables.image_index())
    for count in range(1, 7):
        of_index(tmp_path, table.filter(pl.col("batch") < f"batch-{count}"))
    assert len(validation_result.load_runs(tmp_path / "results")["image_index"]) < 5
