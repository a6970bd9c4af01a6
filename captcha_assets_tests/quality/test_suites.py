"""The suites, and which changes of them validate a table again."""

from dataclasses import replace
from typing import Any

import pytest

from captcha_assets.dataset import CAPTCHA, DatasetSpec
from captcha_assets.quality import suites, validation
from captcha_assets.quality.suites import SUITES, Suite


@pytest.mark.parametrize("name", SUITES)
def test_great_expectations_knows_every_expectation_and_its_arguments(name: str) -> None:
    expectations = SUITES[name](CAPTCHA)
    suite = validation.suite_of(name, expectations)
    assert {one.meta["name"]: one.severity for one in suite.expectations if one.meta} == {
        check: one.severity for check, one in expectations.items()
    }


def test_nothing_is_expected_of_what_is_not_known_of_a_data_set() -> None:
    bare = replace(CAPTCHA, class_shares=None, brightness=None, contrast=None, foreground_fraction=None)
    left_out = suites.expectations("image_table", CAPTCHA).keys() - suites.expectations("image_table", bare)
    ranges = {"brightness_in_range", "contrast_in_range", "foreground_fraction_in_range"}
    assert left_out == {"class_balance", *ranges}


def test_another_limit_of_the_data_set_validates_again() -> None:
    brighter = replace(CAPTCHA, brightness=(40.0, 250.0))
    assert suites.version("image_table", brighter) != suites.version("image_table", CAPTCHA)
    assert suites.version("splits", brighter) == suites.version("splits", CAPTCHA)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"notes": "In other words."}, False),
        ({"severity": "warning"}, True),
        ({"type": "ExpectColumnValuesToNotBeNull"}, True),
        ({"arguments": {"column": "reason", "mostly": 0.6}}, True),
    ],
)
def test_another_limit_or_severity_validates_again_and_other_notes_do_not(
    change: dict[str, Any], *, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = suites.version("image_table", CAPTCHA)

    def changed(spec: DatasetSpec) -> Suite:
        suite = suites.image_table(spec)
        return suite | {"share_of_rejects": suite["share_of_rejects"]._replace(**change)}

    monkeypatch.setattr(suites, "SUITES", {**SUITES, "image_table": changed})
    assert (suites.version("image_table", CAPTCHA) != before) == again
