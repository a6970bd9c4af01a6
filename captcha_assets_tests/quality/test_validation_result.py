import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.quality.validation_result import ValidationResult, ValidationResultError
from captcha_assets.stored_outputs import Output, StoredVersions
from captcha_assets_tests.quality.stored_results import stored, validated

STORED = st.builds(
    stored,
    name=st.text("abc_", min_size=1),
    success=st.booleans(),
    severity=st.sampled_from(["critical", "warning"]),
    observed=st.text(),
)
VALIDATED = st.lists(STORED, max_size=4).map(lambda results: validated(*results))


@given(VALIDATED)
def test_validation_results_survive_json(one):
    assert ValidationResult(**json.loads(json.dumps(dataclasses.asdict(one)))) == one


@given(VALIDATED)
def test_a_table_passes_unless_a_blocking_check_failed(one):
    assert one.passed == all(result.success for result in one.results if result.blocking)
    assert len(one.warnings) + len(one.failures) == sum(not result.success for result in one.results)


@pytest.mark.parametrize(
    ("success", "severity", "level"),
    [
        (True, "critical", "passed"),
        (True, "warning", "passed"),
        (False, "warning", "warning"),
        (False, "critical", "failed"),
    ],
)
def test_only_a_critical_expectation_fails(success, severity, level):
    (result,) = validated(stored(success=success, severity=severity)).results
    assert result.level == level


def test_an_expectation_is_named_as_in_its_documentation_with_its_arguments():
    (result,) = validated(stored()).results
    assert result.expected == "column values to be in set (column label, value set a b, mostly 0.95)"


def test_saved_validation_results_are_loaded_again(tmp_path):
    one = validated(stored(severity="warning"), images={"id": "cGljdHVyZQ=="})
    validation_result.save(one, "<p>report</p>", tmp_path / "splits")
    assert validation_result.load(tmp_path / "splits") == one
    assert (tmp_path / "splits" / "report.html").read_text() == "<p>report</p>"


def test_saving_again_replaces_both_files(tmp_path):
    for rows in (1, 2):
        validation_result.save(ValidationResult("splits", rows, []), f"{rows}", tmp_path / "splits")
    assert validation_result.load(tmp_path / "splits").rows == 2
    assert (tmp_path / "splits" / "report.html").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["splits"]


def test_validation_results_are_saved_in_an_object_store_too(bucket):
    one = validated(stored(success=True), subject="splits")
    validation_result.save(one, "report", bucket / "quality" / "splits")
    assert validation_result.load(bucket / "quality" / "splits") == one


@pytest.mark.parametrize("success", [True, False])
def test_a_batch_goes_on_only_with_validation_results_that_block_nothing(tmp_path, success):
    assert not validation_result.has_passed(tmp_path / "splits")
    validation_result.save(validated(stored(success=success)), "", tmp_path / "splits")
    assert validation_result.has_passed(tmp_path / "splits") == success


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"subject": "splits"}', '{"subject": "", "rows": 1, "suites": [{"results": [1]}]}'],
)
def test_what_cannot_be_read_is_one_clear_error_and_no_pass(tmp_path, text):
    (tmp_path / "validation_result.json").write_text(text)
    with pytest.raises(ValidationResultError, match="captcha-assets update validates the table again"):
        validation_result.load(tmp_path)
    assert not validation_result.has_passed(tmp_path)


@pytest.mark.parametrize(("stored_success", "edited"), [(False, True), (True, False)])
def test_a_result_that_was_edited_by_hand_opens_no_quarantine_and_begins_none(
    tmp_path, stored_success, edited
):
    folder = tmp_path / "first"
    validation_result.save(validated(stored(success=stored_success)), "", folder)
    path = folder / "validation_result.json"
    before, after = (f'"success": {str(success).lower()}' for success in (stored_success, edited))
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValidationResultError, match=f"{path}.*changed after it was stored.*update validates"):
        validation_result.load(folder)
    assert not validation_result.has_passed(folder)
    assert validation_result.quarantined({"first": folder}) == {}


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"files": {}}', '{"files": {"report.html": "ab"}}'])
def test_a_damaged_record_of_the_hash_is_no_pass(tmp_path, manifest):
    validation_result.save(validated(stored(success=True)), "", tmp_path / "first")
    (tmp_path / "first" / "manifest.json").write_text(manifest)
    assert not validation_result.has_passed(tmp_path / "first")


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["validation_result.json", "report.html", "manifest.json"])
def test_each_file_that_is_missing_or_changed_is_named(tmp_path, name):
    folder = tmp_path / "first"
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-3]), replaced_by_a_pipe):
        validation_result.save(validated(stored(success=True)), "<p>report</p>", folder)
        damage(folder / name)
        with pytest.raises(
            ValidationResultError, match=f"{folder / name} .*update validates the table again"
        ):
            validation_result.load_with_report(folder)
        # a page is for people: what it shows is decided without it
        assert validation_result.has_passed(folder) == (name == "report.html")


# --- what a version before this one stored


def earlier(folder: Path, *, passed: bool) -> Path:
    """The file of a version that had its own format."""
    one = {
        "name": "labels_in_alphabet",
        "description": "Every label is one of the known classes.",
        "expected": "each label one of 2 3 4",
        "observed": "labels z (1)",
        "passed": passed,
        "blocking": True,
        "examples": [] if passed else [{"image_id": "one", "label": "z"}],
        "total_unexpected": 0 if passed else 1,
    }
    values = {"subject": "image_table/first", "findings": [one], "rows": 3, "pictures": {}, "passed": passed}
    folder.mkdir(exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("passed", [True, False])
def test_what_an_earlier_version_found_counts_until_the_table_is_validated_again(tmp_path, passed):
    folder = earlier(tmp_path / "first", passed=passed)
    assert validation_result.is_stored(folder)
    assert validation_result.has_passed(folder) == passed
    assert validation_result.quarantined({"first": folder}) == (
        {} if passed else {"first": ["labels_in_alphabet"]}
    )
    (result,) = validation_result.load(folder).results
    assert (result.expected, result.observed) == ("each label one of 2 3 4", "labels z (1)")


def test_validating_again_replaces_what_an_earlier_version_found(tmp_path):
    folder = earlier(tmp_path / "first", passed=False)
    validation_result.save(validated(stored(success=True)), "", folder)
    assert validation_result.has_passed(folder)
    assert not (folder / "verdict.json").exists()


def test_results_of_another_batch_open_no_quarantine(tmp_path: Path) -> None:
    paths = Paths(home=tmp_path)
    bad = validated(stored("share_of_rejects", success=False), subject="image_table/bad")
    good = validated(stored("share_of_rejects", success=True), subject="image_table/good")
    for one in (bad, good):
        folder = paths.validation_results(*one.subject.split("/"))
        validation_result.save(one, "page", folder)
    shutil.rmtree(paths.validation_results("image_table", "bad"))
    shutil.copytree(
        paths.validation_results("image_table", "good"), paths.validation_results("image_table", "bad")
    )
    assert not validation_result.has_passed(paths.validation_results("image_table", "bad"))
    with pytest.raises(ValidationResultError, match="it is of image_table/good"):
        validation_result.load_batch(paths, "bad")
    assert validation_result.load_batch(paths, "good").passed


def test_results_of_another_batch_on_an_object_store_are_no_version_of_a_table(
    tmp_path: Path, bucket: UPath
) -> None:
    paths = Paths(home=tmp_path, artifacts=str(bucket))
    good = validated(stored("share_of_rejects", success=True), subject="image_table/good")
    for batch in ("good", "bad"):
        validation_result.save(good, "page", paths.validation_results("image_table", batch))
    problems = [StoredVersions(paths).look(Output("image_table", batch)).problem for batch in ("good", "bad")]
    assert "it is of image_table/good" not in str(problems[0])
    assert "it is of image_table/good" in str(problems[1])
