"""Validation results as Great Expectations stores them, written by hand."""

from collections.abc import Sequence
from typing import Any

from captcha_assets.quality.validation_result import ValidationResult


def stored(
    name: str = "labels_in_alphabet",
    *,
    success: bool = False,
    severity: str = "critical",
    observed: str = "something else",
    examples: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The result of one expectation."""
    counted = {"unexpected_count": len(examples), "element_count": 420} if examples else {}
    return {
        "success": success,
        "expectation_config": {
            "type": "expect_column_values_to_be_in_set",
            "kwargs": {"column": "label", "value_set": ["a", "b"], "mostly": 0.95},
            "severity": severity,
            "notes": f"what {name} is for",
            "meta": {"name": name},
        },
        "result": {"observed_value": observed, "partial_unexpected_index_list": list(examples), **counted},
        "exception_info": {"raised_exception": False, "exception_traceback": None, "exception_message": None},
    }


def validated(
    *results: dict[str, Any], subject: str = "image_table/first", **values: Any
) -> ValidationResult:
    """The validation results of a table of 420 rows."""
    return ValidationResult(subject, 420, [{"suite_name": "image_table", "results": list(results)}], **values)
