"""What makes a table be validated anew, and what does not."""

from typing import Any

from captcha_assets.quality import thresholds
from captcha_assets.quality.thresholds import CHECKS, VERSION, Check, version_of


def with_check(change: dict[str, Any]) -> dict[str, Any]:
    """The constants of the module, where one check of the image table is another one."""
    first, *others = CHECKS["image_table"]
    changed: tuple[Check, ...] = (first._replace(**change), *others)
    return {**vars(thresholds), "CHECKS": {**CHECKS, "image_table": changed}}


def test_a_reworded_description_validates_nothing_anew() -> None:
    assert version_of(with_check({"description": "In other words."})) == VERSION


def test_another_limit_or_level_or_check_validates_anew() -> None:
    assert version_of({**vars(thresholds), "MAX_REJECTED": 0.4}) != VERSION
    assert version_of(with_check({"blocking": False})) != VERSION
    assert version_of(with_check({"name": "another"})) != VERSION
