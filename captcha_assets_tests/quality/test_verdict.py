import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captcha_assets.quality import verdict
from captcha_assets.quality.verdict import Finding, Verdict, VerdictError

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FINDINGS = st.builds(
    Finding,
    name=st.text("abc_", min_size=1),
    description=st.text(),
    expected=st.text(),
    observed=st.text(),
    passed=st.booleans(),
    blocking=st.booleans(),
    examples=st.lists(st.dictionaries(st.text(), VALUES, max_size=3), max_size=3),
    total_unexpected=st.integers(0),
)
VERDICTS = st.builds(
    Verdict,
    subject=st.text(),
    findings=st.lists(FINDINGS, max_size=4).map(tuple),
    rows=st.integers(0),
    pictures=st.dictionaries(st.text(), st.text(), max_size=2),
)


def finding(*, passed: bool, blocking: bool) -> Finding:
    return Finding("check", "what for", "so", "not so", passed, blocking)


@given(VERDICTS)
def test_a_verdict_survives_json(judged):
    assert Verdict.from_dict(json.loads(json.dumps(judged.to_dict()))) == judged


@given(VERDICTS)
def test_a_verdict_passes_unless_a_blocking_check_failed(judged):
    assert judged.passed == all(one.passed for one in judged.findings if one.blocking)
    assert len(judged.warnings) + len(judged.failures) == sum(not one.passed for one in judged.findings)


@pytest.mark.parametrize(
    ("passed", "blocking", "level"),
    [(True, True, "passed"), (True, False, "passed"), (False, False, "warning"), (False, True, "failed")],
)
def test_only_a_blocking_check_fails(passed, blocking, level):
    assert finding(passed=passed, blocking=blocking).level == level


def test_a_saved_verdict_is_loaded_again(tmp_path):
    judged = Verdict("splits", (finding(passed=False, blocking=False),), 3, {"id": "cGljdHVyZQ=="})
    verdict.save(judged, "<p>report</p>", tmp_path / "splits")
    assert verdict.load(tmp_path / "splits") == judged
    assert (tmp_path / "splits" / "report.html").read_text() == "<p>report</p>"


def test_saving_again_replaces_both_files(tmp_path):
    for rows in (1, 2):
        verdict.save(Verdict("splits", (), rows), f"{rows}", tmp_path / "splits")
    assert verdict.load(tmp_path / "splits").rows == 2
    assert (tmp_path / "splits" / "report.html").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["splits"]


def test_a_verdict_is_saved_in_an_object_store_too(bucket):
    judged = Verdict("splits", (finding(passed=True, blocking=True),), 3)
    verdict.save(judged, "report", bucket / "quality" / "splits")
    assert verdict.load(bucket / "quality" / "splits") == judged


@pytest.mark.parametrize("passed", [True, False])
def test_a_delivery_goes_on_only_with_a_verdict_that_stops_nothing(tmp_path, passed):
    assert not verdict.has_passed(tmp_path / "splits")
    verdict.save(Verdict("splits", (finding(passed=passed, blocking=True),), 3), "", tmp_path / "splits")
    assert verdict.has_passed(tmp_path / "splits") == passed


@pytest.mark.parametrize("text", ["", "{", "[]", '{"subject": "splits"}', '{"findings": [{"odd": 1}]}'])
def test_a_verdict_that_cannot_be_read_is_one_clear_error_and_no_pass(tmp_path, text):
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(VerdictError, match="judge the table"):
        verdict.load(tmp_path)
    assert not verdict.has_passed(tmp_path)
