"""The suites: for each check what was measured, what it may be, and both in words.

Of every row that is not as it should be, Polars keeps count; Great Expectations judges the counts and
shares (`expectations`), so that it costs the same whatever the size of the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.frames import repeated
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.quality import frames
from captcha_assets.quality import thresholds as limits
from captcha_assets.quality.frames import Unexpected
from captcha_assets.quality.verdict import MAX_EXAMPLES


class Measure(NamedTuple):
    """A figure and what it may be.

    Attributes:
        name: what was counted; of one check only.
        value: how many, or which share.
        at_least: the lowest that passes.
        at_most: the highest that passes.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Rule:
    """One check of one table.

    Attributes:
        check: its name in `thresholds.CHECKS`.
        measures: all of them must be within their limits.
        expected: the same in words, with the thresholds.
        found: what the table holds, in words.
        examples: the first rows that are not as they should be.
        total: how many such rows there are.
    """

    check: str
    measures: Sequence[Measure]
    expected: str
    found: str
    examples: pl.DataFrame
    total: int


def _none(check: str, what: str, wrong: Unexpected, expected: str, found: str) -> Rule:
    """Return a rule that bears no unexpected row."""
    return _bearing(check, [Measure(what, wrong.total, at_most=0)], wrong, expected, found)


def _bearing(check: str, measures: Sequence[Measure], wrong: Unexpected, expected: str, found: str) -> Rule:
    counted = f"{wrong.total:,} of {wrong.whole:,} {wrong.unit} are not as expected; " if wrong.total else ""
    return Rule(check, measures, expected, counted + found, wrong.examples, wrong.total)


def _listed(values: pl.Series, at_most: int = 25) -> str:
    """Name the distinct values, the most frequent first."""
    counted = values.value_counts(name="times").sort("times", values.name, descending=[True, False])
    listed = ", ".join(f"{value} ({times:,})" for value, times in counted.head(at_most).iter_rows())
    return listed + ", ..." * (len(counted) > at_most) if listed else "none"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _not_in(column: str, values: Sequence[object]) -> pl.Expr:
    return ~pl.col(column).is_in(list(values))


def columns(described: pl.DataFrame) -> Rule:
    """The columns and their types, for any table (`frames.columns`)."""
    keys = ["column", "type", "expected", "empty"]
    amiss = (pl.col("type") != pl.col("expected")) | (pl.col("empty") != 0)
    wrong = frames.unexpected(described, amiss, keys, "columns")
    names = described.filter(amiss)["column"]
    return _none(
        "columns_and_types",
        "columns_amiss",
        wrong,
        ", ".join(f"{name} {dtype}" for name, dtype in described.select("column", "expected").iter_rows()),
        f"not so: {', '.join(names)}"
        if wrong.total
        else f"all {len(described)} columns, none with empty values",
    )


def image_table(
    rows: pl.DataFrame, classes: pl.DataFrame, refused: pl.DataFrame, spec: DatasetSpec
) -> list[Rule]:
    """All but the columns of a delivery's image table.

    Args:
        rows: `frames.images`.
        classes: `frames.classes` of them.
        refused: the refused members, with `member`, `reason` and `detail`.
        spec: what the images look like.
    """
    return [
        _not_empty(rows),
        *_rejects(len(rows), refused),
        _unique("unique_members", "member", "member", rows, ["image_id", "member", "label"]),
        _labels(rows, spec),
        _image_size(rows, spec),
        _statistics(rows, spec),
        *_classes(classes, spec),
    ]


def _not_empty(rows: pl.DataFrame) -> Rule:
    return Rule(
        "not_empty",
        [Measure("usable_images", len(rows), at_least=1)],
        "at least one usable image",
        f"{len(rows):,} usable images",
        rows.clear(),
        0,
    )


def _rejects(usable: int, refused: pl.DataFrame) -> list[Rule]:
    rejected, members = len(refused), usable + len(refused)
    share = _share(rejected, members)
    reasons = f": {_listed(refused['reason'])}" if rejected else ""
    found = f"{rejected:,} of {members:,} members refused ({_percent(share)}){reasons}"
    # A few of each reason say more than ten of the first.
    nth = pl.int_range(pl.len()).over("reason")
    examples = refused.sort(nth, "reason", "member").select("member", "reason", "detail").head(MAX_EXAMPLES)
    return [
        Rule(
            check,
            [Measure(f"share_refused_{check}", share, at_most=limit)],
            f"at most {_percent(limit)} of the members refused",
            found,
            examples,
            rejected,
        )
        for check, limit in (("share_of_rejects", limits.MAX_REJECTED), ("few_rejects", limits.MANY_REJECTED))
    ]


def _unique(check: str, column: str, what: str, rows: pl.DataFrame, keys: Sequence[str]) -> Rule:
    wrong = frames.unexpected(rows, repeated(rows[column]), keys, "images")
    different = rows[column].n_unique() if wrong.total else len(rows)
    return _none(
        check,
        f"rows_of_a_repeated_{what}",
        wrong,
        f"no {what} twice",
        f"{different:,} different {what}s in {len(rows):,} rows",
    )


def _labels(rows: pl.DataFrame, spec: DatasetSpec) -> Rule:
    return _none(
        "labels_in_alphabet",
        "unknown_labels",
        frames.unexpected(rows, _not_in("label", spec.classes), ["image_id", "member", "label"], "images"),
        f"each label one of {' '.join(spec.classes)}",
        f"labels {_listed(rows['label'])}",
    )


def _image_size(rows: pl.DataFrame, spec: DatasetSpec) -> Rule:
    keys = ["image_id", "member", "label", "pixel_bytes"]
    return _none(
        "image_size",
        "images_of_another_size",
        frames.unexpected(rows, pl.col("pixel_bytes") != spec.pixel_bytes, keys, "images"),
        f"{spec.size} pixels, {spec.pixel_bytes:,} bytes each",
        f"bytes {_listed(rows['pixel_bytes'])}",
    )


def _statistics(rows: pl.DataFrame, spec: DatasetSpec) -> Rule:
    known = {name: getattr(spec, name) for name in ("brightness", "contrast", "foreground_fraction")}
    ranges = {name: ends for name, ends in known.items() if ends}
    if not ranges:
        nothing = "nothing is known of brightness, contrast and foreground fraction"
        return Rule("statistics_in_range", [], nothing, "not checked", rows.clear(), 0)
    outside = {name: ~pl.col(name).is_between(low, high) for name, (low, high) in ranges.items()}
    counts = rows.select(wrong.sum().alias(name) for name, wrong in outside.items()).row(0, named=True)
    keys = ["image_id", "member", "label", *ranges]
    return _bearing(
        "statistics_in_range",
        [
            Measure(
                f"share_of_{name}_outside",
                _share(count, rows[name].count()),
                at_most=limits.MAX_OUT_OF_RANGE,
            )
            for name, count in counts.items()
        ],
        frames.unexpected(rows, pl.any_horizontal(*outside.values()), keys, "images"),
        ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
        + f", for all but {_percent(limits.MAX_OUT_OF_RANGE)} of the images",
        ", ".join(_range(rows[name]) for name in ranges),
    )


def _range(values: pl.Series) -> str:
    if values.is_empty():
        return f"{values.name}: none"
    low, high = values.to_frame().select(low=pl.first().min(), high=pl.first().max()).row(0)
    return f"{values.name} {low:.3g} to {high:.3g}"


def _classes(counts: pl.DataFrame, spec: DatasetSpec) -> list[Rule]:
    keys = ["label", "images", "share", "known_share"]
    absent = frames.unexpected(counts, pl.col("images") == 0, keys, "classes")
    range_keys = [*keys, "lowest", "highest"]
    outside = ~pl.col("images").is_between("lowest", "highest")
    times = pl.col("share") / pl.col("balanced")
    spread = counts.filter(pl.col("images") > 0).with_columns(times=times).sort("times").to_dicts()
    furthest = [f"{one['times']:.2f} times (class {one['label']})" for one in spread[:1] + spread[-1:]]
    return [
        _none(
            "every_class_present",
            "absent_classes",
            absent,
            f"images of each of the {len(spec.classes)} classes",
            f"absent: {' '.join(counts.filter(images=0)['label'])}"
            if absent.total
            else f"all {len(spec.classes)} classes",
        ),
        _none(
            "class_balance",
            "classes_out_of_balance",
            frames.unexpected(counts, outside & (spec.class_shares is not None), range_keys, "classes"),
            f"each class that is there within {_percent(limits.CLASS_TOLERANCE)} of its known share, or "
            f"within {limits.CLASS_SIGMAS:g} standard deviations of chance",
            "shares between " + " and ".join(furthest) + " the balanced one" if furthest else "no images",
        ),
    ]


def image_index(rows: pl.DataFrame, conflicts: pl.DataFrame, spec: DatasetSpec) -> list[Rule]:
    """All but the columns of the image index.

    Args:
        rows: `frames.index`.
        conflicts: some images with contradicting labels, with their `sources`.
        spec: what the images look like.
    """
    in_conflict = int((rows["status"] == LABEL_CONFLICT).sum())
    share = _share(in_conflict, len(rows))
    return [
        _unique("unique_images", "image_id", "image", rows, ["image_id", "batch", "member"]),
        _index_labels(rows, spec),
        _groups(rows),
        Rule(
            "share_of_conflicts",
            [Measure("share_in_conflict", share, at_most=limits.MAX_CONFLICTS)],
            f"at most {_percent(limits.MAX_CONFLICTS)} of the images with contradicting labels",
            f"{in_conflict:,} of {len(rows):,} ({_percent(share)})",
            conflicts,
            in_conflict,
        ),
    ]


def _index_labels(rows: pl.DataFrame, spec: DatasetSpec) -> Rule:
    usable = rows.filter(pl.col("status") == USABLE)
    # One column says both: a usable image's label, and that a contradicted one has none.
    wrong = _not_in("status", [USABLE, LABEL_CONFLICT]) | _not_in("label_as_judged", [*spec.classes, "none"])
    keys = ["image_id", "batch", "member", "status", "label_as_judged"]
    return _none(
        "labels_in_alphabet",
        "labels_amiss",
        frames.unexpected(rows, wrong, keys, "images"),
        f"each usable image's label one of {' '.join(spec.classes)}; none where labels contradict each other",
        f"labels {_listed(usable['label'])}",
    )


def _groups(rows: pl.DataFrame) -> Rule:
    sizes = rows["group"].filter(repeated(rows["group"])).value_counts()["count"]
    largest = sizes.sort(descending=True).head(1).to_list()
    wrong = pl.col("group").ne_missing(pl.col("group_of_root")) | (pl.col("image_id") < pl.col("group"))
    keys = ["image_id", "batch", "member", "group", "group_of_root"]
    return _none(
        "groups_consistent",
        "images_of_a_group_amiss",
        frames.unexpected(frames.grouped(rows), wrong, keys, "images in groups of others"),
        "each group named after an image of its own, the smallest",
        f"{len(sizes):,} groups of near-duplicates with {sizes.sum():,} images"
        + "".join(f"; the largest has {size:,}" for size in largest),
    )


def splits(
    rows: pl.DataFrame, known: pl.DataFrame, recorded: pl.DataFrame, wanted: Mapping[str, float]
) -> list[Rule]:
    """All but the columns of the splits.

    Args:
        rows: `frames.placed`.
        known: `frames.known_images`.
        recorded: the record of the assignments.
        wanted: the share of each split.
    """
    uneven = frames.uneven_classes(rows, recorded)
    return [
        _unique("unique_images", "image_id", "image", rows, _IMAGE),
        _not_in_two(rows, "image_id", "no_image_in_two_splits"),
        _not_in_two(rows, "group", "no_group_in_two_splits"),
        _pairs(frames.near_duplicates(rows, known)),
        _split_or_reason(rows, wanted),
        _no_conflict(rows),
        _agreement(rows),
        _forgotten(frames.missing_images(rows, known), len(known)),
        _kept(rows),
        *_ratios(frames.ratios(rows, wanted, uneven), wanted, uneven),
        _held_back(rows),
    ]


#: What says which image of the splits is meant.
_IMAGE = ["image_id", "label", "split", "batch"]


def _not_in_two(rows: pl.DataFrame, column: str, check: str) -> Rule:
    what = {"image_id": "image", "group": "group of near-duplicates"}[column]
    spread = frames.extremes(rows, column)
    torn = spread.filter(pl.col("one_split") != pl.col("other_split"))
    examples = rows.join(torn, on=column, how="semi").sort(column, "split", "image_id")
    return Rule(
        check,
        [Measure(f"in_two_splits_by_{column}", len(torn), at_most=0)],
        f"each {what} in one split only",
        f"{len(torn):,} in more than one; {len(spread):,} with several rows",
        examples.select("group", "image_id", "label", "split", "batch").head(MAX_EXAMPLES),
        len(examples),
    )


def _pairs(pairs: pl.DataFrame) -> Rule:
    keys = ["image_id", "near_duplicate", "label", "batch", "batch_of_near_duplicate"]
    splits = ["split", "split_of_near_duplicate"]
    apart = pl.col(splits[0]) != pl.col(splits[1])
    return _none(
        "no_near_duplicate_in_two_splits",
        "pairs_apart",
        frames.unexpected(pairs, apart, [*keys, *splits], "pairs"),
        "both of each pair of near-duplicates in one split",
        f"{len(pairs):,} pairs of near-duplicates with a place",
    )


def _split_or_reason(rows: pl.DataFrame, wanted: Mapping[str, float]) -> Rule:
    wrong = _not_in("split", list(wanted)) | (pl.col("places") != 1)
    return _none(
        "split_or_reason",
        "images_without_a_place_or_reason",
        frames.unexpected(rows, wrong, [*_IMAGE, "places"], "images"),
        f"either a split ({', '.join(wanted)}) or a reason for being held back",
        f"splits {_listed(rows['split'].drop_nulls())}; "
        f"excluded {_listed(rows['exclusion_reason'].drop_nulls())}",
    )


def _no_conflict(rows: pl.DataFrame) -> Rule:
    wrong = pl.col("status_of_placed") == LABEL_CONFLICT
    found = frames.unexpected(rows, wrong, [*_IMAGE, "status_of_placed"], "images")
    return _none(
        "no_conflict_placed",
        "contradicted_images_in_a_split",
        found,
        "no image with contradicting labels in a split",
        f"{found.total:,} such images in a split",
    )


def _agreement(rows: pl.DataFrame) -> Rule:
    unknown = int(rows["status_in_index"].null_count())
    wrong = pl.col("status_in_index").is_null() | pl.col("label_if_usable").ne_missing(
        pl.col("label_in_index")
    )
    keys = [*_IMAGE, "status_in_index", "label_if_usable", "label_in_index"]
    return _none(
        "agrees_with_index",
        "images_that_disagree_with_the_index",
        frames.unexpected(rows, wrong, keys, "images"),
        "each image in the index, with the same label",
        f"{len(rows) - unknown:,} of {len(rows):,} images in the index",
    )


def _forgotten(absent: pl.DataFrame, images: int) -> Rule:
    return Rule(
        "no_image_forgotten",
        [Measure("usable_images_without_a_row", len(absent), at_most=0)],
        "a row for each usable image of the index",
        f"{len(absent):,} usable images without one, of {images:,} images in the index",
        absent.head(MAX_EXAMPLES),
        len(absent),
    )


def _kept(rows: pl.DataFrame) -> Rule:
    placed = rows.filter(pl.col("split").is_not_null())
    changed = pl.col("split").ne_missing(pl.col("recorded_split"))
    found = frames.unexpected(placed, changed, [*_IMAGE, "recorded_split"], "images with a split")
    return _none(
        "assignments_kept",
        "images_in_another_split_than_recorded",
        found,
        "each image in the split that was recorded for it",
        f"{len(placed) - found.total:,} images in their recorded split",
    )


def _ratios(places: pl.DataFrame, wanted: Mapping[str, float], uneven: Sequence[str]) -> list[Rule]:
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
    if uneven:
        found += f"; nothing exact is expected of {' '.join(uneven)}: assigned images are gone or relabelled"
    keys = ["label", "split", "images", "should", "off"]
    return [
        _none(
            check,
            f"places_beyond_{slack}",
            frames.unexpected(places, pl.col("off") > pl.col(slack), [*keys, slack], "places"),
            f"of each class {belongs}, within {images:g} image{'s' * (images != 1)}, "
            f"{_percent(share_of_class)} of the class or its largest near-duplicate group, whichever is more",
            found,
        )
        for check, slack, images, share_of_class in (
            ("ratios", "allowed_roughly", limits.ROUGH_IMAGES, limits.ROUGH_SHARE),
            ("ratios_exact", "allowed_exactly", limits.EXACT_IMAGES, limits.EXACT_SHARE),
        )
    ]


def _held_back(rows: pl.DataFrame) -> Rule:
    waiting = rows.filter(pl.col("exclusion_reason").is_not_null())
    share = _share(len(waiting), len(rows))
    reasons = f": {_listed(waiting['exclusion_reason'])}" if len(waiting) else ""
    return Rule(
        "held_back",
        [Measure("share_held_back", share, at_most=limits.MAX_HELD_BACK)],
        f"at most {_percent(limits.MAX_HELD_BACK)} of the images held back",
        f"{len(waiting):,} of {len(rows):,} ({_percent(share)}){reasons}",
        waiting.select("image_id", "label", "group", "exclusion_reason", "batch").head(MAX_EXAMPLES),
        len(waiting),
    )
