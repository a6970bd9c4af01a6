import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from captcha_assets.quality import report
from captcha_assets_tests.quality.stored_results import stored, validated

#: A image of one pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
HOSTILE = [
    "<script>alert(1)</script>.png",
    '"><img src=x onerror=alert(1)>_1.png',
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "</table></html>",
    "a\x00b\u202egnp.exe\n\r\t",
]


class Page(HTMLParser):
    """The elements and addresses of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_report_says_what_was_expected_and_found():
    page = Page(report.page(validated(stored("unique_members", success=True))))
    for words in ("image table of batch first", "420 rows", "Passed", "unique members", "something else"):
        assert words in page.text


def test_the_report_says_what_is_wrong_in_the_words_of_the_terminal():
    result = validated(stored("few_rejects"))
    (failed,) = result.failures
    assert failed.problem
    assert f"Wrong{failed.problem}" in Page(report.page(result)).text


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([stored(success=True)], "Passed"),
        ([stored(severity="warning")], "Passed with 1 warning"),
        (
            [stored(), stored("image_size"), stored("few_rejects", severity="warning")],
            "2 blocking checks failed",
        ),
    ],
)
def test_the_report_begins_with_the_outcome(results, outcome):
    text = " ".join(Page(report.page(validated(*results))).text.split())
    assert re.search(rf"420 rows {outcome} \d", text)


def test_failed_blocking_checks_come_first_then_warnings_then_the_rest():
    names = ["unique_members", "few_rejects", "image_size"]
    page = report.page(
        validated(stored(names[0], success=True), stored(names[1], severity="warning"), stored(names[2]))
    )
    assert [page.index(f'id="{name}"') for name in reversed(names)] == sorted(
        page.index(f'id="{name}"') for name in names
    )


def test_examples_are_shown_as_images():
    one = stored(examples=[{"image_id": "one", "label": "z"}, {"image_id": "two", "label": "z"}])
    page = Page(report.page(validated(one, images={"one": PNG})))
    assert [value for name, value in page.attributes if name == "src"] == [f"data:image/png;base64,{PNG}"]


def test_both_near_duplicates_are_shown():
    one = stored(examples=[{"image_id": "one", "near_duplicate": "two"}])
    page = Page(report.page(validated(one, images={"one": PNG, "two": PNG})))
    assert page.tags.count("img") == 2


def test_the_report_needs_nothing_beside_it():
    one = stored(examples=[{"image_id": "one"}])
    text = report.page(validated(one, stored(success=True), images={"one": PNG}))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form", "base"} & set(page.tags)
    addresses = [value for name, value in page.attributes if name in {"src", "href", "srcset", "action"}]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(hostile):
    def page(value: str) -> Page:
        one = stored(examples=[{"image_id": value, "member": value, value: value}])
        found = validated(one, stored("image_size", success=True), subject=value)
        return Page(report.page(found))

    harmless, harmful = page("harmless"), page(hostile)
    assert harmful.tags == harmless.tags
    assert harmful.attributes == harmless.attributes
    assert "49" not in harmful.text
    if hostile.isprintable():
        assert harmful.text.count(hostile) >= 5  # title, heading, and in the table


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_name_does_nothing_in_the_markdown_either(hostile):
    lines = report.markdown_table([{"member": hostile + "|`_*[x](y)"}], {}).splitlines()
    assert len(lines) == 3
    assert lines[2].count("|") == 3
    assert not set('<>`*[]_"') & set(lines[2])


def test_the_markdown_shows_images():
    rows = [{"image_id": "one", "label": "z"}, {"image_id": "two", "label": "y"}]
    lines = report.markdown_table(rows, {"two": PNG}).splitlines()
    assert "![" not in lines[2]
    assert f"![image](data:image/png;base64,{PNG})" in lines[3]


def test_very_long_values_are_cut():
    page = Page(report.page(validated(stored(examples=[{"member": "x" * 10_000}]))))
    assert "x" * 150 in page.text
    assert "x" * 201 not in page.text


def test_stored_results_and_reports_load_without_great_expectations():
    code = """
import sys
import captcha_assets.quality.report, captcha_assets.quality.validation_result
print(sorted({"great_expectations", "pandas", "polars", "scipy", "cv2"} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def history_of_two() -> Page:
    good = validated(
        stored("unique_members", success=True), stored("few_rejects", success=True, severity="warning")
    )
    bad = validated(stored("unique_members"), stored("few_rejects", severity="warning"), stored("drift"))
    return Page(report.history({"first": good, "second": bad}))


def classes(page: Page, name: str) -> list[str]:
    """The second word of each element's class whose first is `name`, the legend left out."""
    words = [str(value).split() for attribute, value in page.attributes if attribute == "class"]
    return [second for first, second in (pair for pair in words if len(pair) == 2) if first == name]


def test_the_history_shows_each_check_of_each_batch_the_latest_first():
    page = history_of_two()
    assert classes(page, "mark")[:6] == ["failed", "warning", "failed", "passed", "passed", "none"]
    assert classes(page, "badge") == ["failed", "passed"]


def test_each_mark_of_the_history_leads_to_what_was_found():
    links = [value for name, value in history_of_two().attributes if name == "href"]
    assert links == [
        "second/report.html",
        "second/report.html#unique_members",
        "second/report.html#few_rejects",
        "../drift/second/report.html",
        "first/report.html",
        "first/report.html#unique_members",
        "first/report.html#few_rejects",
    ]
    assert "something else" in str([value for name, value in history_of_two().attributes if name == "title"])


def test_a_history_of_some_batches_says_of_how_many():
    found = validated(stored(success=True))
    assert "1 of 1,234 batches" in report.history({"first": found}, of=1234)
    assert "1 batch," in report.history({"first": found})


def test_the_history_lets_no_name_do_harm():
    found = validated(stored())
    harmful = report.history({HOSTILE[1]: dataclasses.replace(found, subject=HOSTILE[1])})
    assert Page(harmful).tags == Page(report.history({"first": found})).tags
