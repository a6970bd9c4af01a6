"""The suites: for each check its expectations, in Great Expectations' terms and in words.

Importing this module imports Great Expectations, which takes seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from great_expectations.expectations.core.expect_column_pair_values_a_to_be_greater_than_b import (
    ExpectColumnPairValuesAToBeGreaterThanB,
)
from great_expectations.expectations.core.expect_column_pair_values_to_be_equal import (
    ExpectColumnPairValuesToBeEqual,
)
from great_expectations.expectations.core.expect_column_values_to_be_between import (
    ExpectColumnValuesToBeBetween,
)
from great_expectations.expectations.core.expect_column_values_to_be_in_set import ExpectColumnValuesToBeInSet
from great_expectations.expectations.core.expect_column_values_to_be_unique import (
    ExpectColumnValuesToBeUnique,
)
from great_expectations.expectations.core.expect_column_values_to_not_be_in_set import (
    ExpectColumnValuesToNotBeInSet,
)
from great_expectations.expectations.core.expect_column_values_to_not_be_null import (
    ExpectColumnValuesToNotBeNull,
)
from great_expectations.expectations.core.expect_table_row_count_to_be_between import (
    ExpectTableRowCountToBeBetween,
)
from great_expectations.expectations.core.expect_table_row_count_to_equal import ExpectTableRowCountToEqual
from great_expectations.expectations.expectation import Expectation

from captcha_assets.dataset import CLASSES, HEIGHT, WIDTH
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.quality import thresholds as limits
from captcha_assets.quality.frames import Frame
from captcha_assets.quality.verdict import MAX_EXAMPLES


@dataclass(frozen=True)
class Rule:
    """One check as Great Expectations sees it.

    Attributes:
        check: its name in `thresholds.CHECKS`.
        frame: name of the frame it looks at.
        expectations: all of them must hold.
        expected: the same in words, with the thresholds.
        found: what the frame holds, in words.
        examples: rows that say more than those of the frame would; None for those of the frame.
        total: how many such rows there are; only with `examples`.
    """

    check: str
    frame: str
    expectations: Sequence[Expectation]
    expected: str
    found: str
    examples: pl.DataFrame | None = None
    total: int = 0


def _listed(values: pl.Series, at_most: int = 25) -> str:
    """Name the distinct values, the most frequent first."""
    counted = values.value_counts(name="times").sort("times", values.name, descending=[True, False])
    listed = ", ".join(f"{value} ({times:,})" for value, times in counted.head(at_most).iter_rows())
    return listed + ", ..." * (len(counted) > at_most) if listed else "none"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def columns(frame: Frame) -> Rule:
    """The columns and their types, for any table."""
    wrong = frame.rows.filter((pl.col("type") != pl.col("expected")) | (pl.col("empty") > 0))["column"]
    return Rule(
        "columns_and_types",
        "columns",
        [
            ExpectColumnPairValuesToBeEqual(column_A="type", column_B="expected"),
            ExpectColumnValuesToBeInSet(column="empty", value_set=[0]),
        ],
        ", ".join(f"{name} {dtype}" for name, dtype in frame.rows.select("column", "expected").iter_rows()),
        f"not so: {', '.join(wrong)}"
        if len(wrong)
        else f"all {len(frame.rows)} columns, none with empty values",
    )


def image_table(parts: Mapping[str, Frame], refused: pl.DataFrame) -> list[Rule]:
    """All but the columns of a delivery's image table.

    Args:
        parts: the frames `images`, `delivery` and `classes`.
        refused: the refused members, with `member`, `reason` and `detail`.
    """
    rows = parts["images"].rows
    return [
        _not_empty(rows),
        *_rejects(parts["delivery"].rows, refused),
        _unique("unique_members", "member", "member", rows),
        _labels(rows),
        _image_size(rows),
        _statistics(rows),
        *_classes(parts["classes"].rows),
    ]


def _not_empty(rows: pl.DataFrame) -> Rule:
    return Rule(
        "not_empty",
        "images",
        [ExpectTableRowCountToBeBetween(min_value=1)],
        "at least one usable image",
        f"{len(rows):,} usable images",
    )


def _rejects(delivery: pl.DataFrame, refused: pl.DataFrame) -> list[Rule]:
    members, rejected, share = delivery.select("members", "rejected", "share_rejected").row(0)
    reasons = f": {_listed(refused['reason'])}" if rejected else ""
    found = f"{rejected:,} of {members:,} members refused ({_percent(share)}){reasons}"
    # A few of each reason say more than ten of the first.
    nth = pl.int_range(pl.len()).over("reason")
    examples = refused.sort(nth, "reason", "member").select("member", "reason", "detail").head(MAX_EXAMPLES)
    return [
        Rule(
            check,
            "delivery",
            [ExpectColumnValuesToBeBetween(column="share_rejected", max_value=limit)],
            f"at most {_percent(limit)} of the members refused",
            found,
            examples,
            rejected,
        )
        for check, limit in (("share_of_rejects", limits.MAX_REJECTED), ("few_rejects", limits.MANY_REJECTED))
    ]


def _unique(check: str, column: str, what: str, rows: pl.DataFrame) -> Rule:
    return Rule(
        check,
        "images",
        [ExpectColumnValuesToBeUnique(column=column)],
        f"no {what} twice",
        f"{rows[column].n_unique():,} different {what}s in {len(rows):,} rows",
    )


def _labels(rows: pl.DataFrame) -> Rule:
    return Rule(
        "labels_in_alphabet",
        "images",
        [ExpectColumnValuesToBeInSet(column="label", value_set=list(CLASSES))],
        f"each label one of {' '.join(CLASSES)}",
        f"labels {_listed(rows['label'])}",
    )


def _image_size(rows: pl.DataFrame) -> Rule:
    return Rule(
        "image_size",
        "images",
        [ExpectColumnValuesToBeInSet(column="pixel_bytes", value_set=[WIDTH * HEIGHT])],
        f"{WIDTH}x{HEIGHT} pixels, {WIDTH * HEIGHT:,} bytes each",
        f"bytes {_listed(rows['pixel_bytes'])}",
    )


def _statistics(rows: pl.DataFrame) -> Rule:
    ranges = {"brightness": limits.BRIGHTNESS, "contrast": limits.CONTRAST, "ink": limits.INK}
    found = ", ".join(_range(rows[name]) for name in ranges)
    return Rule(
        "statistics_in_range",
        "images",
        [
            ExpectColumnValuesToBeBetween(
                column=name, min_value=low, max_value=high, mostly=1 - limits.MAX_OUT_OF_RANGE
            )
            for name, (low, high) in ranges.items()
        ],
        ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
        + f", for all but {_percent(limits.MAX_OUT_OF_RANGE)} of the images",
        found,
    )


def _range(values: pl.Series) -> str:
    if values.is_empty():
        return f"{values.name}: none"
    low, high = values.to_frame().select(low=pl.first().min(), high=pl.first().max()).row(0)
    return f"{values.name} {low:.3g} to {high:.3g}"


def _classes(counts: pl.DataFrame) -> list[Rule]:
    absent = counts.filter(pl.col("images") == 0)["label"]
    times = pl.col("share") / pl.col("balanced")
    spread = counts.filter(pl.col("images") > 0).with_columns(times=times).sort("times").to_dicts()
    furthest = [f"{one['times']:.2f} times (class {one['label']})" for one in spread[:1] + spread[-1:]]
    return [
        Rule(
            "every_class_present",
            "classes",
            [ExpectColumnValuesToBeBetween(column="images", min_value=1)],
            f"images of each of the {len(CLASSES)} classes",
            f"absent: {' '.join(absent)}" if len(absent) else f"all {len(CLASSES)} classes",
        ),
        Rule(
            "class_balance",
            "classes",
            [
                ExpectColumnPairValuesAToBeGreaterThanB(column_A="images", column_B="lowest", or_equal=True),
                ExpectColumnPairValuesAToBeGreaterThanB(column_A="highest", column_B="images", or_equal=True),
            ],
            f"each class that is there within {_percent(limits.CLASS_TOLERANCE)} of its known share, or "
            f"within {limits.CLASS_SIGMAS:g} standard deviations of chance",
            "shares between " + " and ".join(furthest) + " the balanced one" if furthest else "no images",
        ),
    ]


def image_index(rows: pl.DataFrame, conflicts: pl.DataFrame) -> list[Rule]:
    """All but the columns of the image index.

    Args:
        rows: the frame `images`.
        conflicts: some images with contradicting labels, with their `sources`.
    """
    in_conflict = int((rows["status"] == LABEL_CONFLICT).sum())
    share = in_conflict / max(len(rows), 1)
    return [
        _unique("unique_images", "image_id", "image", rows),
        _index_labels(rows),
        _groups(rows),
        Rule(
            "share_of_conflicts",
            "conflicts",
            [ExpectColumnValuesToBeBetween(column="share", max_value=limits.MAX_CONFLICTS)],
            f"at most {_percent(limits.MAX_CONFLICTS)} of the images with contradicting labels",
            f"{in_conflict:,} of {len(rows):,} ({_percent(share)})",
            conflicts,
            in_conflict,
        ),
    ]


def _index_labels(rows: pl.DataFrame) -> Rule:
    usable = rows.filter(pl.col("status") == USABLE)
    return Rule(
        "labels_in_alphabet",
        "images",
        [
            ExpectColumnValuesToBeInSet(column="status", value_set=[USABLE, LABEL_CONFLICT]),
            # One column says both: a usable image's label, and that a contradicted one has none.
            ExpectColumnValuesToBeInSet(column="label_as_judged", value_set=[*CLASSES, "none"]),
        ],
        f"each usable image's label one of {' '.join(CLASSES)}; none where labels contradict each other",
        f"labels {_listed(usable['label'])}",
    )


def _groups(rows: pl.DataFrame) -> Rule:
    group_sizes = rows.group_by("group").len()["len"]
    shared = group_sizes.filter(group_sizes > 1)
    largest = shared.sort(descending=True).head(1).to_list()
    return Rule(
        "groups_consistent",
        "grouped",
        [
            ExpectColumnPairValuesToBeEqual(column_A="group", column_B="group_of_root"),
            ExpectColumnPairValuesAToBeGreaterThanB(column_A="image_id", column_B="group", or_equal=True),
        ],
        "each group named after an image of its own, the smallest",
        f"{len(shared):,} groups of near-duplicates with {shared.sum():,} images"
        + "".join(f"; the largest has {size:,}" for size in largest),
    )


def splits(parts: Mapping[str, Frame], wanted: Mapping[str, float]) -> list[Rule]:
    """All but the columns of the splits.

    Args:
        parts: the frames `images`, `image_ids`, `groups`, `pairs`, `places`, `absent` and `held`.
        wanted: the share of each split.
    """
    rows = parts["images"].rows
    return [
        _unique("unique_images", "image_id", "image", rows),
        _not_in_two(rows, parts["image_ids"], "no_image_in_two_splits"),
        _not_in_two(rows, parts["groups"], "no_group_in_two_splits"),
        _pairs(parts["pairs"].rows),
        _split_or_reason(rows, wanted),
        _no_conflict(rows),
        *_agreement(rows, parts["absent"].rows),
        *_ratios(parts["places"].rows, wanted),
        _held_back(rows, parts["held"].rows),
    ]


def _not_in_two(rows: pl.DataFrame, spread: Frame, check: str) -> Rule:
    column = spread.key[0]
    what = {"image_id": "image", "group": "group of near-duplicates"}[column]
    torn = spread.rows.filter(pl.col("one_split") != pl.col("other_split"))
    examples = rows.join(torn, on=column, how="semi").sort(column, "split", "image_id")
    return Rule(
        check,
        "image_ids" if column == "image_id" else "groups",
        [ExpectColumnPairValuesToBeEqual(column_A="one_split", column_B="other_split")],
        f"each {what} in one split only",
        f"{len(torn):,} in more than one; {len(spread.rows):,} with several rows",
        examples.select("group", "image_id", "label", "split", "batch").head(MAX_EXAMPLES),
        len(examples),
    )


def _pairs(pairs: pl.DataFrame) -> Rule:
    return Rule(
        "no_near_duplicate_in_two_splits",
        "pairs",
        [ExpectColumnPairValuesToBeEqual(column_A="split", column_B="split_of_near_duplicate")],
        "both of each pair of near-duplicates in one split",
        f"{len(pairs):,} pairs of near-duplicates with a place",
    )


def _split_or_reason(rows: pl.DataFrame, wanted: Mapping[str, float]) -> Rule:
    return Rule(
        "split_or_reason",
        "images",
        [
            ExpectColumnValuesToBeInSet(column="split", value_set=list(wanted)),
            ExpectColumnValuesToBeInSet(column="places", value_set=[1]),
        ],
        f"either a split ({', '.join(wanted)}) or a reason for being held back",
        f"splits {_listed(rows['split'].drop_nulls())}; held back {_listed(rows['held_back'].drop_nulls())}",
    )


def _no_conflict(rows: pl.DataFrame) -> Rule:
    found = rows.filter(pl.col("status_of_placed") == LABEL_CONFLICT)
    return Rule(
        "no_conflict_placed",
        "images",
        [ExpectColumnValuesToNotBeInSet(column="status_of_placed", value_set=[LABEL_CONFLICT])],
        "no image with contradicting labels in a split",
        f"{len(found):,} such images in a split",
    )


def _agreement(rows: pl.DataFrame, absent: pl.DataFrame) -> list[Rule]:
    unknown = int(rows["status_in_index"].null_count())
    return [
        Rule(
            "agrees_with_index",
            "images",
            [
                ExpectColumnValuesToNotBeNull(column="status_in_index"),
                ExpectColumnPairValuesToBeEqual(column_A="label_if_usable", column_B="label_in_index"),
            ],
            "each image in the index, with the same label",
            f"{len(rows) - unknown:,} of {len(rows):,} images in the index",
        ),
        Rule(
            "no_image_forgotten",
            "absent",
            [ExpectTableRowCountToEqual(value=0)],
            "a row for each usable image of the index",
            f"{len(absent):,} usable images without one",
            absent.head(MAX_EXAMPLES),
            len(absent),
        ),
    ]


def _ratios(places: pl.DataFrame, wanted: Mapping[str, float]) -> list[Rule]:
    belongs = ", ".join(f"{split} {_percent(share)}" for split, share in wanted.items())
    sizes = places.group_by("split").agg(pl.col("images").sum())
    shares = dict(sizes.with_columns(pl.col("images") / max(places["images"].sum(), 1)).iter_rows())
    found = ", ".join(f"{split} {_percent(shares.get(split, 0))}" for split in wanted)
    by_distance = places.sort(pl.col("off") - pl.col("allowed_exactly"), "label", descending=[True, False])
    furthest = by_distance.filter(pl.col("off") > 0.5).head(1).to_dicts()
    if furthest:
        found += "; furthest off: {label} in {split}, {images:,} images where {should:,.1f} belong".format(
            **furthest[0]
        )
    return [
        Rule(
            check,
            "places",
            [ExpectColumnPairValuesAToBeGreaterThanB(column_A=slack, column_B="off", or_equal=True)],
            f"of each class {belongs}, within {images:g} image{'s' * (images != 1)}, "
            f"{_percent(share_of_class)} of the class or its largest near-duplicate group, whichever is more",
            found,
        )
        for check, slack, images, share_of_class in (
            ("ratios", "allowed_roughly", limits.ROUGH_IMAGES, limits.ROUGH_SHARE),
            ("ratios_exact", "allowed_exactly", limits.EXACT_IMAGES, limits.EXACT_SHARE),
        )
    ]


def _held_back(rows: pl.DataFrame, held: pl.DataFrame) -> Rule:
    waiting = rows.filter(pl.col("held_back").is_not_null())
    share = held["share"][0]
    reasons = f": {_listed(waiting['held_back'])}" if len(waiting) else ""
    return Rule(
        "held_back",
        "held",
        [ExpectColumnValuesToBeBetween(column="share", max_value=limits.MAX_HELD_BACK)],
        f"at most {_percent(limits.MAX_HELD_BACK)} of the images held back",
        f"{len(waiting):,} of {len(rows):,} ({_percent(share)}){reasons}",
        waiting.select("image_id", "label", "group", "held_back", "batch").head(MAX_EXAMPLES),
        len(waiting),
    )
