"""A home whose tables were validated by a version with results of another format."""

import json

import pytest

from captcha_assets.quality import validation_result
from captcha_assets.quality.validation_result import quarantined
from captcha_assets_tests.defs.conftest import Home

SELECTION = "key:raw_batch or key:image_table or key:rejected_images or key:image_index"


def as_an_earlier_version_stored_it(home: Home, asset: str, batch: str | None = None) -> None:
    folder = home.settings.paths.validation_results(asset, batch)
    found = validation_result.load(folder)
    findings = [
        {
            "name": one.name,
            "description": one.notes,
            "expected": one.expected,
            "observed": one.observed,
            "passed": one.success,
            "blocking": one.blocking,
            "examples": list(one.examples),
            "total_unexpected": one.unexpected_count,
        }
        for one in found.results
    ]
    values = {"subject": found.subject, "findings": findings, "rows": found.rows, "pictures": {}}
    (folder / "verdict.json").write_text(json.dumps(values | {"passed": found.passed}))
    for name in ("validation_result.json", "manifest.json"):
        (folder / name).unlink()


@pytest.mark.slow
def test_a_home_of_an_earlier_version_keeps_its_batches_until_update_validates_them_again(home: Home) -> None:
    now = home.definitions
    home.definitions = now.map_asset_specs(
        func=lambda spec: spec.replace_attributes(code_version=f"earlier {spec.code_version}")
    )
    home.add("first", "synthetic:100:1")
    assert not [outcome for outcome in home.update(SELECTION) if outcome.error]
    before = {name: home.version(*name) for name in (("image_table", "first"), ("image_index",))}
    as_an_earlier_version_stored_it(home, "image_table", "first")
    as_an_earlier_version_stored_it(home, "image_index")
    home.definitions = now

    folder = home.settings.paths.validation_results("image_table", "first")
    assert quarantined({"first": folder}) == {}
    assert home.materialize("image_index") is None, "the batch goes on before it is validated again"
    assert home.version("image_index") == before["image_index",]
    assert "image_table + rejected_images [first]" in home.stale()

    assert not [outcome for outcome in home.update(SELECTION) if outcome.error]
    assert {name: home.version(*name) for name in before} == before
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "validation_result.json",
        "manifest.json",
    }
    assert not [step for step in home.stale() if step.startswith("image_")]
