"""The report: one page that needs nothing beside it and says what was measured."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from captcha_assets.evaluation import plots, report
from captcha_assets.evaluation.metrics import BatchMetrics as Batch
from captcha_assets.evaluation.metrics import compute_metrics
from captcha_assets.evaluation.report import render
from captcha_assets_tests.evaluation.examples import CLASSES, made_up, measured, some_mistakes

DRAWN = plots.gallery([], 400)


class Page(HTMLParser):
    """The parts of a page that a test asks for."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [found[name] for name in ("src", "href", "data", "action") if name in found]
        if tag not in ("img", "meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def rendered(metrics=None, **changes):
    metrics = metrics or measured()
    content = {
        "model_id": "resnet18-0123456789ab",
        "split": "test",
        "metrics": metrics,
        "plot_images": {
            "confusion_matrix": DRAWN,
            "calibration": DRAWN,
        },
        "mistakes": some_mistakes(5),
        "batches": [Batch("batch-0", 300, 280), Batch("batch-1", 100, 90)],
        "facts": {"Data versions": {"splits": "0f1e2d"}, "Training settings": {"epochs": "12"}},
        "shape": (52, 32),
    }
    return render(**(content | changes))


def test_the_page_needs_nothing_beside_it():
    html = rendered()
    page = Page(html)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not re.search(r"https?:|@import|url\(", html)


def test_every_link_on_the_page_leads_somewhere():
    page = Page(rendered())
    wanted = {address[1:] for address in page.addresses if address.startswith("#")}
    assert wanted <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_page_states_what_was_measured_and_how_surely():
    metrics = measured()
    text = Page(rendered(metrics)).text
    for share in (metrics.accuracy, metrics.accuracy_low, metrics.accuracy_high):
        assert f"{100 * share:.2f} %" in text
    for figure in (metrics.macro_f1, metrics.ece, metrics.nll, metrics.brier):
        assert f"{figure:.4f}" in text
    for word in ("resnet18-0123456789ab", "0f1e2d", "epochs", "batch-1", "90.00 %"):
        assert word in text


def test_the_page_says_what_the_model_is_for_and_names_what_it_reads_worse():
    probabilities, labels = made_up()
    bad = np.where(labels == 3)[0]
    probabilities[bad] = np.roll(probabilities[bad], 1, axis=1)
    metrics = compute_metrics(probabilities, labels, CLASSES)
    batches = [Batch("batch-0", 300, 290), Batch("batch-1", 100, 30)]
    text = Page(rendered(metrics, batches=batches)).text
    assert "the class of one gray image of 32 x 52 pixels, one of 4" in text
    assert "the class of one RGB image" in Page(rendered(shape=(64, 48, 3))).text
    assert "It reads d worse than the others: " in text
    assert "It reads batch batch-1 worse than the others: 30.0 %" in text
    assert "batch batch-0" not in text


def test_a_class_with_few_test_images_is_said_to_be_known_roughly():
    probabilities, labels = made_up()
    few = np.flatnonzero(labels == 2)[10:]
    kept = np.setdiff1d(np.arange(len(labels)), few)
    metrics = compute_metrics(probabilities[kept], labels[kept], CLASSES)
    assert "Fewer than 50 test images show c: their recall is known roughly" in Page(rendered(metrics)).text
    some = np.arange(len(labels))[:60]
    assert set(labels[some]) == set(range(len(CLASSES)))
    metrics = compute_metrics(probabilities[some], labels[some], CLASSES)
    assert "Fewer than 50 test images show any class: " in Page(rendered(metrics)).text


def test_a_mistake_leads_to_its_batch_and_the_batch_to_its_own_page():
    mistakes = some_mistakes(2)
    page = Page(rendered(mistakes=mistakes, batch_link="../quality/{batch}/report.html"))
    for mistake in mistakes:
        assert f"image-{mistake.image_id}" in page.ids
        assert f"#batch-{mistake.batch}" in page.addresses
        assert f"../quality/{mistake.batch}/report.html" in page.addresses


def test_a_class_without_test_images_is_named():
    probabilities, labels = made_up()
    metrics = compute_metrics(probabilities, np.where(labels == 3, 0, labels), CLASSES)
    assert "No test images of d" in Page(rendered(metrics)).text
    assert "No test images" not in Page(rendered()).text


def test_a_model_without_mistakes_has_a_report_too():
    assert "every image was predicted correctly" in Page(rendered(measured(skill=50), mistakes=[])).text


def test_a_model_with_endless_mistakes_has_a_report_of_finite_length():
    page = Page(rendered(mistakes=some_mistakes(report.SHOWN_MISTAKES + 50)))
    assert page.tags.count("figure") == report.SHOWN_MISTAKES
    assert "predictions.parquet" in page.text


def test_names_are_shown_as_they_are_and_never_run():
    facts = {"Provenance": {"run": "<script>alert(1)</script>"}}
    page = Page(rendered(facts=facts))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


def test_the_same_figures_give_the_same_page():
    assert rendered() == rendered()


@pytest.mark.parametrize("skill", [-50, 0, 50])
def test_bars_stay_within_their_scale(skill):
    html = rendered(measured(skill=skill), mistakes=[])
    places = [float(place) for place in re.findall(r"(?:left|right): (-?[\d.]+)%", html)]
    assert len(places) >= 3 * len(CLASSES)
    assert all(0 <= place <= 100 for place in places)
