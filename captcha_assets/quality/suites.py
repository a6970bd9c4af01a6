"""The expectation suites: what each table must be like, in the vocabulary of Great Expectations.

Add or change an expectation as in its own documentation; only the class stands in quotation marks, because
Dagster lists the expectations as asset checks and must not wait for the import of Great Expectations, which
takes seconds. Each suite validates one derived table (`derived_tables`), whose columns it may name.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.index import LABEL_CONFLICT, USABLE
from captcha_assets.images.split_assignment import (
    CONFLICT,
    CONTRADICTED,
    NEAR_DUPLICATE_OF_TWO_SPLITS,
    SPLITS,
)


class Expectation(NamedTuple):
    """One expectation; it is one asset check in Dagster, of the name under which it stands in its suite.

    Attributes:
        notes: what it is for, in a sentence.
        severity: "critical" blocks: a batch that fails is quarantined, and a table that fails stops what
            comes after. "warning" blocks nothing.
        type: a class of `great_expectations.expectations`.
        arguments: of the class.
        shown: columns that an unexpected row shows besides its own and those in `IDENTIFYING_COLUMNS`.
    """

    notes: str
    severity: Literal["critical", "warning"]
    type: str
    arguments: Mapping[str, Any]
    shown: tuple[str, ...] = ()

    @property
    def blocking(self) -> bool:
        """Whether a failure blocks the assets that depend on the table."""
        return self.severity == "critical"


#: Expectations by name: letters, digits and underscores.
Suite = dict[str, Expectation]


def _gxe(type_: str, **arguments: Any) -> tuple[str, dict[str, Any]]:
    """A class of `great_expectations.expectations`, conventionally imported as `gxe`, and its arguments."""
    return type_, arguments


def _critical(notes: str, what: tuple[str, dict[str, Any]], shown: tuple[str, ...] = ()) -> Expectation:
    return Expectation(notes, "critical", *what, shown)


def _warning(notes: str, what: tuple[str, dict[str, Any]], shown: tuple[str, ...] = ()) -> Expectation:
    return Expectation(notes, "warning", *what, shown)


def _where(condition: str) -> dict[str, Any]:
    """Arguments that restrict an expectation to the rows that meet a condition, as pandas reads it."""
    return {"row_condition": condition, "condition_parser": "pandas"}


def columns(_spec: DatasetSpec) -> Suite:
    """The schema of any table. A row is a column: `column`, `type`, `expected_type`, `empty_values`."""
    return {
        "columns_and_types": _critical(
            "Every column is there, and of its type.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="type", column_B="expected_type"),
        ),
        "no_empty_values": _critical(
            "No required value is empty or not a number.",
            _gxe("ExpectColumnValuesToBeInSet", column="empty_values", value_set=[0]),
        ),
    }


def image_table(spec: DatasetSpec) -> Suite:
    """One batch. A row is a member of the archive: a usable image, or a rejected member with its `reason`."""
    return {
        "not_empty": _critical(
            "The batch holds usable images.",
            _gxe("ExpectTableRowCountToBeBetween", min_value=1, **_where("reason.isnull()")),
        ),
        # More was rejected than taken: likelier the wrong archive than a batch with a few bad files.
        "share_of_rejects": _critical(
            "The batch is not mostly bad.",
            _gxe("ExpectColumnValuesToBeNull", column="reason", mostly=0.5),
            shown=("rejected_member", "detail"),
        ),
        # The public data sets have no reject or a handful: someone should look at the reasons.
        "few_rejects": _warning(
            "Hardly any member of the batch is rejected.",
            _gxe("ExpectColumnValuesToBeNull", column="reason", mostly=0.95),
            shown=("rejected_member", "detail"),
        ),
        "unique_members": _critical(
            "No file of the batch is taken twice.", _gxe("ExpectColumnValuesToBeUnique", column="member")
        ),
        "labels_in_alphabet": _critical(
            "Every label is one of the known classes.",
            _gxe("ExpectColumnValuesToBeInSet", column="label", value_set=list(spec.classes)),
        ),
        "image_size": _critical(
            "Every image has exactly the known number of pixels.",
            _gxe(
                "ExpectColumnValuesToBeInSet",
                column="pixel_bytes",
                value_set=[spec.height * spec.width * spec.channels],
            ),
        ),
        **_statistics(spec),
        "every_class_present": _warning(
            "Every class has images; a partial batch need not.",
            _gxe("ExpectColumnDistinctValuesToContainSet", column="label", value_set=list(spec.classes)),
        ),
    }


def _statistics(spec: DatasetSpec, severity: Literal["critical", "warning"] = "critical") -> Suite:
    """The plausible ranges of the data set.

    Single washed-out images are part of the true data; one in twenty means that the batch was scaled,
    inverted or cut differently.
    """
    ranges = {
        "brightness": spec.brightness,
        "contrast": spec.contrast,
        "foreground_fraction": spec.foreground_fraction,
    }
    return {
        f"{name}_in_range": Expectation(
            f"The {name.replace('_', ' ')} of hardly any image is implausible.",
            severity,
            *_gxe(
                "ExpectColumnValuesToBeBetween",
                column=name,
                min_value=limits[0],
                max_value=limits[1],
                mostly=0.95,
            ),
        )
        for name, limits in ranges.items()
        if limits is not None
    }


#: A class's number of images may differ from the expected one by this part of itself, or by this many
#: standard deviations of a random draw, whichever is more: with twenty classes, a batch that was drawn at
#: random fails once in some 800 batches.
CLASS_TOLERANCE, CLASS_SIGMAS = 0.25, 4.0


def class_balance(spec: DatasetSpec) -> Suite:
    """The classes of one batch. A row is a class that has images: its `deviation` and `tolerance`."""
    if spec.class_shares is None:
        return {}
    return {
        "class_balance": _warning(
            "The classes that are there are as frequent as they are known to be.",
            _gxe(
                "ExpectColumnPairValuesAToBeGreaterThanB",
                column_A="tolerance",
                column_B="deviation",
                or_equal=True,
            ),
        )
    }


def image_index(spec: DatasetSpec) -> Suite:
    """The image index. A row is an image; `group_of_group` is the group of the image that names its group."""
    usable, in_conflict = _where(f"status == '{USABLE}'"), _where(f"status == '{LABEL_CONFLICT}'")
    return {
        "unique_images": _critical(
            "Every distinct image stands in the index once.",
            _gxe("ExpectColumnValuesToBeUnique", column="image_id"),
        ),
        "known_status": _critical(
            "An image is usable, or its labels contradict each other.",
            _gxe("ExpectColumnValuesToBeInSet", column="status", value_set=[USABLE, LABEL_CONFLICT]),
        ),
        "labels_in_alphabet": _critical(
            "Every label is one of the known classes.",
            _gxe("ExpectColumnValuesToBeInSet", column="label", value_set=list(spec.classes)),
        ),
        "usable_images_labelled": _critical(
            "Every usable image has a label.", _gxe("ExpectColumnValuesToNotBeNull", column="label", **usable)
        ),
        "conflicts_unlabelled": _critical(
            "An image with contradicting labels has no label.",
            _gxe("ExpectColumnValuesToBeNull", column="label", **in_conflict),
        ),
        **_groups(),
        # Above this share the labelling itself is in doubt.
        "share_of_conflicts": _warning(
            "Hardly any image has contradicting labels.",
            _gxe("ExpectColumnValuesToNotBeInSet", column="status", value_set=[LABEL_CONFLICT], mostly=0.99),
            shown=("copies", "sources"),
        ),
    }


def _groups() -> Suite:
    return {
        "groups_consistent": _critical(
            "A near-duplicate group is named after an image of its own.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="shared_group", column_B="group_of_group"),
        ),
        "groups_named_after_smallest": _critical(
            "A near-duplicate group is named after its smallest image.",
            _gxe(
                "ExpectColumnPairValuesAToBeGreaterThanB",
                column_A="image_id",
                column_B="group",
                or_equal=True,
            ),
        ),
    }


def splits(_spec: DatasetSpec) -> Suite:
    """The splits. A row is an image, beside what the index and the recorded assignments say of it.

    A usable image of the index that has no row in the splits has one here, in `missing_image`.
    """
    return {
        "unique_images": _critical(
            "Every image has one split.", _gxe("ExpectColumnValuesToBeUnique", column="image_id")
        ),
        "no_group_in_two_splits": _critical(
            "A group of near-duplicates has one split.",
            _gxe(
                "ExpectColumnPairValuesToBeEqual",
                column_A="split",
                column_B="split_of_group",
                ignore_row_if="either_value_is_missing",
            ),
            shown=("group",),
        ),
        "no_near_duplicate_in_two_splits": _critical(
            "Near-duplicates share a split, whatever the splits say of their groups.",
            _gxe(
                "ExpectColumnPairValuesToBeEqual",
                column_A="split",
                column_B="split_of_near_duplicate",
                ignore_row_if="either_value_is_missing",
            ),
            shown=("near_duplicate", "batch_of_near_duplicate"),
        ),
        "split_or_reason": _critical(
            "An image has a known split, or is excluded for a known reason.",
            _gxe(
                "ExpectColumnValuesToBeInSet",
                column="split_or_reason",
                value_set=[*SPLITS, CONFLICT, NEAR_DUPLICATE_OF_TWO_SPLITS, CONTRADICTED],
            ),
        ),
        **_as_in_index(),
        "assignments_kept": _critical(
            "Every split is the one that was recorded.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="split", column_B="recorded_split"),
        ),
        # Above this share, near-duplicates are found where there are none, or batches repeat each other.
        "share_of_excluded": _warning(
            "Hardly any image is excluded.",
            _gxe("ExpectColumnValuesToBeNull", column="exclusion_reason", mostly=0.99),
            shown=("group",),
        ),
    }


def _as_in_index() -> Suite:
    return {
        "no_conflict_in_split": _critical(
            "No image with contradicting labels has a split.",
            _gxe(
                "ExpectColumnValuesToBeNull",
                column="split",
                **_where(f"status_in_index == '{LABEL_CONFLICT}'"),
            ),
        ),
        "images_in_index": _critical(
            "Every image stands in the index.",
            _gxe("ExpectColumnValuesToNotBeNull", column="status_in_index"),
        ),
        "labels_as_in_index": _critical(
            "Every image has the same label as in the index.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="label", column_B="label_in_index"),
        ),
        "no_image_missing": _critical(
            "Every usable image of the index has a row.",
            _gxe("ExpectColumnValuesToBeNull", column="missing_image"),
        ),
    }


#: The promise of the splits: of each class, each split holds its share within this many images, or this part
#: of the class, or the largest near-duplicate group of the class, whichever is more.
EXACT_IMAGES, EXACT_SHARE = 1.0, 0.005
#: Beyond this, the figures of a class no longer mean what they say.
ROUGH_IMAGES, ROUGH_SHARE = 3.0, 0.05


def split_ratios(_spec: DatasetSpec) -> Suite:
    """The ratios of the splits. A row is a class in a split, and its `deviation` from the wanted share.

    They only warn, because nothing can correct them: an image keeps its split for ever, so that a removed
    batch leaves its classes uneven, and so do new near-duplicates, which take the split of their group. Of a
    class that lost images to a removal, an exclusion or another label, nothing exact is expected:
    `exact_tolerance` is empty.
    """
    return {
        name: _warning(
            notes,
            _gxe(
                "ExpectColumnPairValuesAToBeGreaterThanB",
                column_A=tolerance,
                column_B="deviation",
                or_equal=True,
                ignore_row_if="either_value_is_missing",
            ),
        )
        for name, tolerance, notes in (
            ("ratios", "tolerance", "Each class is spread over the splits roughly as it should be."),
            (
                "ratios_exact",
                "exact_tolerance",
                "Each class that lost no image is spread as promised: within one image or 0.5 %.",
            ),
        )
    }


def drift(_spec: DatasetSpec) -> Suite:
    """The drift of a batch. A row is a feature: how much it differs, and by how much it may (`drift`)."""
    return {
        "drift": _warning(
            "The batch has the statistics of the images that the champion was trained on.",
            _gxe(
                "ExpectColumnPairValuesAToBeGreaterThanB",
                column_A="threshold",
                column_B="difference",
                or_equal=True,
            ),
        )
    }


def prediction_log(spec: DatasetSpec) -> Suite:
    """The served predictions of a day. A row is a prediction, beside what its time and probabilities say.

    Expectations on the images themselves only warn: clients may send any image, and the drift report tests
    for drift.
    """
    classes = list(spec.classes)
    return {
        "unique_inference_ids": _critical(
            "Every prediction stands in the table once.",
            _gxe("ExpectColumnValuesToBeUnique", column="inference_id"),
        ),
        "of_the_day": _critical(
            "Every prediction has the day of its partition.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="day_of_time", column_B="day"),
        ),
        "labels_in_alphabet": _critical(
            "Every predicted label is one of the known classes.",
            _gxe("ExpectColumnValuesToBeInSet", column="label", value_set=classes),
        ),
        "corrections_in_alphabet": _critical(
            "Every corrected label is one of the known classes.",
            _gxe("ExpectColumnValuesToBeInSet", column="corrected_label", value_set=classes),
        ),
        "probabilities_sum_to_one": _critical(
            "The probabilities of a prediction sum to 1.",
            _gxe(
                "ExpectColumnValuesToBeBetween",
                column="probability_sum",
                min_value=0.999,
                max_value=1.001,
            ),
        ),
        "score_is_highest_probability": _critical(
            "The score is the highest probability.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="score", column_B="highest_probability"),
        ),
        "label_has_highest_probability": _critical(
            "The predicted label is the class of the highest probability.",
            _gxe("ExpectColumnPairValuesToBeEqual", column_A="label", column_B="most_probable_class"),
        ),
        **_statistics(spec, "warning"),
    }


SUITES: Mapping[str, Callable[[DatasetSpec], Suite]] = {
    suite.__name__: suite
    for suite in (
        columns,
        image_table,
        class_balance,
        image_index,
        splits,
        split_ratios,
        drift,
        prediction_log,
    )
}

#: The suites of each asset, in the order in which the checks are shown.
SUITES_OF_ASSET: Mapping[str, tuple[str, ...]] = {
    "image_table": ("columns", "image_table", "class_balance"),
    "image_index": ("columns", "image_index"),
    "splits": ("columns", "splits", "split_ratios"),
    "drift": ("drift",),
    "prediction_log": ("columns", "prediction_log"),
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
    "prediction_log": ("inference_id", "label", "model_version"),
}


def expectations(asset: str, spec: DatasetSpec) -> Suite:
    """Return all expectations of an asset, one for each of its asset checks."""
    return {name: one for suite in SUITES_OF_ASSET[asset] for name, one in SUITES[suite](spec).items()}


def version(asset: str, spec: DatasetSpec) -> str:
    """Return the version of an asset's expectations: another version makes validation results stale.

    Names, severities and limits count, notes do not.
    """
    limits = (CLASS_TOLERANCE, CLASS_SIGMAS, EXACT_IMAGES, EXACT_SHARE, ROUGH_IMAGES, ROUGH_SHARE)
    counting = [
        (name, one.severity, one.type, sorted(one.arguments.items()))
        for name, one in expectations(asset, spec).items()
    ]
    return hashlib.sha256(repr((counting, limits, spec.class_shares)).encode()).hexdigest()[:8]
