"""The expectation suites: what each table must be like, in the vocabulary of Great Expectations.

Add or change an expectation as in its own documentation; only the class stands in quotation marks, because
Dagster lists the expectations as asset checks and must not wait for the import of Great Expectations, which
takes seconds. Each suite validates one derived table (`derived_tables`), whose columns it may name.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.images.splits import CONFLICT, CONTRADICTED, NEAR_DUPLICATE_OF_TWO_SPLITS, SPLITS

#: The columns of the stored tables whose names these suites share with `derived_tables`.
FOREGROUND_FRACTION, EXCLUSION_REASON = "foreground_fraction", "exclusion_reason"


class Expectation(NamedTuple):
    """One expectation; it is one asset check in Dagster.

    Attributes:
        type: a class of `great_expectations.expectations`.
        name: of the asset check: letters, digits and underscores.
        notes: what it is for, in a sentence.
        severity: "critical" blocks: a batch that fails is quarantined, and a table that fails stops what
            comes after. "warning" blocks nothing.
        arguments: of the class.
        shown: columns that an unexpected row shows besides its own and those in `IDENTIFYING_COLUMNS`.
    """

    type: str
    name: str
    notes: str
    severity: Literal["critical", "warning"]
    arguments: Mapping[str, Any]
    shown: tuple[str, ...] = ()

    @property
    def blocking(self) -> bool:
        """Whether nothing goes on when it fails."""
        return self.severity == "critical"


def _critical(
    type_: str, name: str, notes: str, shown: tuple[str, ...] = (), **arguments: Any
) -> Expectation:
    return Expectation(type_, name, notes, "critical", arguments, shown)


def _warning(type_: str, name: str, notes: str, shown: tuple[str, ...] = (), **arguments: Any) -> Expectation:
    return Expectation(type_, name, notes, "warning", arguments, shown)


def _where(condition: str) -> dict[str, Any]:
    """Arguments that restrict an expectation to the rows that meet a condition, as pandas reads it."""
    return {"row_condition": condition, "condition_parser": "pandas"}


def columns(_spec: DatasetSpec) -> list[Expectation]:
    """The schema of any table. A row is a column: `column`, `type`, `expected_type`, `empty_values`."""
    return [
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "columns_and_types",
            "Every column is there, and of its type.",
            column_A="type",
            column_B="expected_type",
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "no_empty_values",
            "No required value is empty or not a number.",
            column="empty_values",
            value_set=[0],
        ),
    ]


def image_table(spec: DatasetSpec) -> list[Expectation]:
    """One batch. A row is a member of the archive: a usable image, or a rejected member with its `reason`."""
    return [
        _critical(
            "ExpectTableRowCountToBeBetween",
            "not_empty",
            "The batch holds usable images.",
            min_value=1,
            **_where("reason.isnull()"),
        ),
        # More was rejected than taken: likelier the wrong archive than a batch with a few bad files.
        _critical(
            "ExpectColumnValuesToBeNull",
            "share_of_rejects",
            "The batch is not mostly bad.",
            ("rejected_member", "detail"),
            column="reason",
            mostly=0.5,
        ),
        # The public data sets have no reject or a handful: someone should look at the reasons.
        _warning(
            "ExpectColumnValuesToBeNull",
            "few_rejects",
            "Hardly any member of the batch is rejected.",
            ("rejected_member", "detail"),
            column="reason",
            mostly=0.95,
        ),
        _critical(
            "ExpectColumnValuesToBeUnique",
            "unique_members",
            "No file of the batch is taken twice.",
            column="member",
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "labels_in_alphabet",
            "Every label is one of the known classes.",
            column="label",
            value_set=list(spec.classes),
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "image_size",
            "Every image has exactly the known number of pixels.",
            column="pixel_bytes",
            value_set=[spec.height * spec.width * spec.channels],
        ),
        *_statistics(spec),
        _warning(
            "ExpectColumnDistinctValuesToContainSet",
            "every_class_present",
            "Every class has images; a partial batch need not.",
            column="label",
            value_set=list(spec.classes),
        ),
    ]


def _statistics(spec: DatasetSpec) -> list[Expectation]:
    """The plausible ranges of the data set.

    Single washed-out images are part of the true data; one in twenty means that the batch was scaled,
    inverted or cut differently.
    """
    ranges = {
        "brightness": ("brightness", spec.brightness),
        "contrast": ("contrast", spec.contrast),
        "foreground_fraction": (FOREGROUND_FRACTION, spec.foreground_fraction),
    }
    return [
        _critical(
            "ExpectColumnValuesToBeBetween",
            f"{name}_in_range",
            f"The {name.replace('_', ' ')} of hardly any image is implausible.",
            column=column,
            min_value=limits[0],
            max_value=limits[1],
            mostly=0.95,
        )
        for name, (column, limits) in ranges.items()
        if limits is not None
    ]


#: A class's number of images may differ from the expected one by this part of itself, or by this many
#: standard deviations of a random draw, whichever is more: with twenty classes, a batch that was drawn at
#: random fails once in some 800 batches.
CLASS_TOLERANCE, CLASS_SIGMAS = 0.25, 4.0


def class_balance(spec: DatasetSpec) -> list[Expectation]:
    """The classes of one batch. A row is a class that has images: its `deviation` and `tolerance`."""
    if spec.class_shares is None:
        return []
    return [
        _warning(
            "ExpectColumnPairValuesAToBeGreaterThanB",
            "class_balance",
            "The classes that are there are as frequent as they are known to be.",
            column_A="tolerance",
            column_B="deviation",
            or_equal=True,
        )
    ]


def image_index(spec: DatasetSpec) -> list[Expectation]:
    """The image index. A row is an image; `group_of_group` is the group of the image that names its group."""
    usable, in_conflict = _where(f"status == '{USABLE}'"), _where(f"status == '{LABEL_CONFLICT}'")
    return [
        _critical(
            "ExpectColumnValuesToBeUnique",
            "unique_images",
            "Every distinct image stands in the index once.",
            column="image_id",
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "known_status",
            "An image is usable, or its labels contradict each other.",
            column="status",
            value_set=[USABLE, LABEL_CONFLICT],
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "labels_in_alphabet",
            "Every label is one of the known classes.",
            column="label",
            value_set=list(spec.classes),
        ),
        _critical(
            "ExpectColumnValuesToNotBeNull",
            "usable_images_labelled",
            "Every usable image has a label.",
            column="label",
            **usable,
        ),
        _critical(
            "ExpectColumnValuesToBeNull",
            "conflicts_unlabelled",
            "An image with contradicting labels has no label.",
            column="label",
            **in_conflict,
        ),
        *_groups(),
        # Above this share the labelling itself is in doubt.
        _warning(
            "ExpectColumnValuesToNotBeInSet",
            "share_of_conflicts",
            "Hardly any image has contradicting labels.",
            ("copies", "sources"),
            column="status",
            value_set=[LABEL_CONFLICT],
            mostly=0.99,
        ),
    ]


def _groups() -> list[Expectation]:
    return [
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "groups_consistent",
            "A near-duplicate group is named after an image of its own.",
            column_A="shared_group",
            column_B="group_of_group",
        ),
        _critical(
            "ExpectColumnPairValuesAToBeGreaterThanB",
            "groups_named_after_smallest",
            "A near-duplicate group is named after its smallest image.",
            column_A="image_id",
            column_B="group",
            or_equal=True,
        ),
    ]


def splits(_spec: DatasetSpec) -> list[Expectation]:
    """The splits. A row is an image, beside what the index and the recorded assignments say of it.

    A usable image of the index that has no row in the splits has one here, in `missing_image`.
    """
    return [
        _critical(
            "ExpectColumnValuesToBeUnique", "unique_images", "Every image has one split.", column="image_id"
        ),
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "no_group_in_two_splits",
            "A group of near-duplicates has one split.",
            ("group",),
            column_A="split",
            column_B="split_of_group",
            ignore_row_if="either_value_is_missing",
        ),
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "no_near_duplicate_in_two_splits",
            "Near-duplicates share a split, whatever the splits say of their groups.",
            ("near_duplicate", "batch_of_near_duplicate"),
            column_A="split",
            column_B="split_of_near_duplicate",
            ignore_row_if="either_value_is_missing",
        ),
        _critical(
            "ExpectColumnValuesToBeInSet",
            "split_or_reason",
            "An image has a known split, or is excluded for a known reason.",
            column="split_or_reason",
            value_set=[*SPLITS, CONFLICT, NEAR_DUPLICATE_OF_TWO_SPLITS, CONTRADICTED],
        ),
        *_as_in_index(),
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "assignments_kept",
            "Every split is the one that was recorded.",
            column_A="split",
            column_B="recorded_split",
        ),
        # Above this share, near-duplicates are found where there are none, or batches repeat each other.
        _warning(
            "ExpectColumnValuesToBeNull",
            "share_of_excluded",
            "Hardly any image is excluded.",
            ("group",),
            column=EXCLUSION_REASON,
            mostly=0.99,
        ),
    ]


def _as_in_index() -> list[Expectation]:
    return [
        _critical(
            "ExpectColumnValuesToBeNull",
            "no_conflict_in_split",
            "No image with contradicting labels is learned from.",
            column="split",
            **_where(f"status_in_index == '{LABEL_CONFLICT}'"),
        ),
        _critical(
            "ExpectColumnValuesToNotBeNull",
            "images_in_index",
            "Every image stands in the index.",
            column="status_in_index",
        ),
        _critical(
            "ExpectColumnPairValuesToBeEqual",
            "labels_as_in_index",
            "Every image has the same label as in the index.",
            column_A="label",
            column_B="label_in_index",
        ),
        _critical(
            "ExpectColumnValuesToBeNull",
            "no_image_missing",
            "Every usable image of the index has a row.",
            column="missing_image",
        ),
    ]


#: The promise of the splits: of each class, each split holds its share within this many images, or this part
#: of the class, or the largest near-duplicate group of the class, whichever is more.
EXACT_IMAGES, EXACT_SHARE = 1.0, 0.005
#: Beyond this, the figures of a class no longer mean what they say.
ROUGH_IMAGES, ROUGH_SHARE = 3.0, 0.05


def split_ratios(_spec: DatasetSpec) -> list[Expectation]:
    """The ratios of the splits. A row is a class in a split, and its `deviation` from the wanted share.

    They only warn, because nothing can correct them: an image keeps its split for ever, so that a removed
    batch leaves its classes uneven, and so do new near-duplicates, which take the split of their group. Of a
    class that lost images to a removal, an exclusion or another label, nothing exact is expected:
    `exact_tolerance` is empty.
    """
    return [
        _warning(
            "ExpectColumnPairValuesAToBeGreaterThanB",
            name,
            notes,
            column_A=tolerance,
            column_B="deviation",
            or_equal=True,
            ignore_row_if="either_value_is_missing",
        )
        for name, tolerance, notes in (
            ("ratios", "tolerance", "Each class is spread over the splits roughly as it should be."),
            (
                "ratios_exact",
                "exact_tolerance",
                "Each class that lost no image is spread as promised: within one image or 0.5 %.",
            ),
        )
    ]


def drift(_spec: DatasetSpec) -> list[Expectation]:
    """The drift of a batch. A row is a feature: how much it differs, and by how much it may (`drift`)."""
    return [
        _warning(
            "ExpectColumnPairValuesAToBeGreaterThanB",
            "drift",
            "The batch looks like what the champion was trained on.",
            column_A="threshold",
            column_B="difference",
            or_equal=True,
        )
    ]


SUITES: Mapping[str, Callable[[DatasetSpec], list[Expectation]]] = {
    suite.__name__: suite
    for suite in (columns, image_table, class_balance, image_index, splits, split_ratios, drift)
}

#: The suites of each asset, in the order in which the checks are shown.
SUITES_OF_ASSET: Mapping[str, tuple[str, ...]] = {
    "image_table": ("columns", "image_table", "class_balance"),
    "image_index": ("columns", "image_index"),
    "splits": ("columns", "splits", "split_ratios"),
    "drift": ("drift",),
}

#: What identifies an unexpected row of each suite.
IDENTIFYING_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "columns": ("column",),
    "image_table": ("image_id", "member", "label"),
    "class_balance": ("label", "images", "expected_images"),
    "image_index": ("image_id", "batch", "member"),
    "splits": ("image_id", "label", "split", "batch"),
    "split_ratios": ("label", "split", "images", "expected_images"),
    "drift": ("feature", "found"),
}


def expectations(asset: str, spec: DatasetSpec) -> list[Expectation]:
    """Return all expectations of an asset, one for each of its asset checks."""
    return [one for name in SUITES_OF_ASSET[asset] for one in SUITES[name](spec)]


def version(asset: str, spec: DatasetSpec) -> str:
    """Return the version of an asset's expectations: another version makes validation results stale.

    Names, severities and limits count, notes do not.
    """
    limits = (CLASS_TOLERANCE, CLASS_SIGMAS, EXACT_IMAGES, EXACT_SHARE, ROUGH_IMAGES, ROUGH_SHARE)
    counting: Sequence[Any] = [
        (one.type, one.name, one.severity, sorted(one.arguments.items())) for one in expectations(asset, spec)
    ]
    return hashlib.sha256(repr((counting, limits, spec.class_shares)).encode()).hexdigest()[:8]
