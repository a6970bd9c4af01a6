"""The page in a real browser, with a real service and its champion."""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from captcha_assets.serving.prediction_log import LoggedPrediction, open_prediction_log
from captcha_assets_tests.serving.services import RunningService, png_files, running
from captcha_assets_tests.training.examples import draw_many

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.xdist_group("service"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]

PNG = png_files(16, seed=4)

#: Drops files on the page, or pastes them, as a browser does.
GIVE = """([kind, files]) => {
  const given = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    given.items.add(new File([bytes], name, { type: "image/png" }));
  }
  const options = { bubbles: true, cancelable: true };
  document.body.dispatchEvent(kind === "drop"
    ? new DragEvent("drop", { ...options, dataTransfer: given })
    : new ClipboardEvent("paste", { ...options, clipboardData: given }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, service: RunningService, path: str = "/", **options: object) -> Iterator[Page]:
    """Open the page; no script may fail or be blocked in it, and nothing may be asked of another host."""
    with closing(browser.new_context(**options)) as context:
        page = context.new_page()
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        errors: list[str] = []
        hosts: set[str] = set()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: "Security Policy" in message.text and errors.append(message.text))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.goto(service.url + path)
        yield page
        assert errors == []
        assert hosts - {""} == {urlsplit(service.url).netloc}  # blobs have no host


@pytest.fixture
def page(browser: Browser, service: RunningService) -> Iterator[Page]:
    with opened(browser, service) as page:
        expect(fact(page, "model")).to_contain_text("captcha_characters")
        yield page


def fact(page: Page, name: str) -> Locator:
    return page.locator(f"#{name}")


def corrections_that_wait(page: Page) -> int:
    shown = fact(page, "pending")
    expect(shown).to_have_text(re.compile(r"\d+"))  # not the dots that stand there until the service answers
    return int(shown.inner_text())


def give(page: Page, *images: bytes, how: str = "drop") -> None:
    files = [[f"{number}.png", base64.b64encode(image).decode()] for number, image in enumerate(images)]
    page.evaluate(GIVE, [how, files])


def tiles(page: Page) -> Locator:
    return page.get_by_role("list", name="Images").get_by_role("button")


def logged(service: RunningService, number: int) -> list[LoggedPrediction]:
    """The latest predictions of the log, the latest one first."""
    service.get("/v1/predictions")  # the service writes what it answered before
    with open_prediction_log(f"sqlite:///{service.home / '.serving' / 'predictions.db'}") as log:
        return log.recent(number)


def label_said(prediction: LoggedPrediction) -> str | None:
    return prediction.correction and prediction.correction.label


def another(label: str) -> str:
    return "x" if label != "x" else "y"


# --- try it


def test_an_image_is_dropped_answered_and_corrected_by_a_key(page: Page, service: RunningService) -> None:
    give(page, PNG[0])
    decoded = page.get_by_role("img", name="The image as the model sees it")
    expect(decoded).to_have_attribute("src", re.compile("^blob:"))
    (found,) = logged(service, 1)
    assert found.image == PNG[0]
    expect(fact(page, "predicted")).to_have_text(found.label)
    expect(page.get_by_role("list", name="Probabilities").get_by_role("listitem").first).to_contain_text(
        found.label
    )
    expect(fact(page, "answered-by")).to_contain_text(found.model_version)
    waiting = corrections_that_wait(page)
    for label in (another(found.label), "b"):  # another correction supersedes the first
        page.keyboard.press(label)
        expect(fact(page, "state")).to_have_text(f"Corrected to {label}. Another key changes it.")
        assert label_said(logged(service, 1)[0]) == label
        expect(fact(page, "pending")).to_have_text(str(waiting + 1))
    page.keyboard.press("Enter")
    expect(fact(page, "state")).to_have_text("Confirmed. Another key changes it.")
    assert label_said(logged(service, 1)[0]) == found.label


def test_several_images_are_pasted_and_a_bad_one_says_what_is_wrong(
    page: Page, service: RunningService
) -> None:
    give(page, PNG[1], b"no image", PNG[2], how="paste")
    expect(tiles(page)).to_have_count(3)
    expect(page.get_by_role("status").last).to_have_text("2 images answered, 1 not.")
    tiles(page).nth(1).click()
    expect(fact(page, "problem")).to_contain_text("The image is not an image")
    expect(page.get_by_text("This file cannot be shown as an image.")).to_be_visible()
    expect(fact(page, "received")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(fact(page, "name")).to_have_text("2.png")
    expect(fact(page, "received")).to_be_visible()
    page.keyboard.press("z")
    expect(page.get_by_role("status").last).to_have_text("z is no class")
    waiting = corrections_that_wait(page)
    expect(fact(page, "facts")).to_contain_text(f"{waiting} of 50")
    page.get_by_role("group", name="What is it really?").get_by_role("button", name="g", exact=True).click()
    expect(tiles(page).nth(2)).to_have_attribute("aria-label", re.compile(r"(corrected to g|confirmed)$"))
    expect(fact(page, "pending")).to_have_text(str(waiting + 1))
    page.get_by_role("checkbox", name="One key corrects").uncheck()
    page.keyboard.press("x")
    page.keyboard.press("ArrowLeft")  # the keys that correct are off, the others are not
    expect(fact(page, "name")).to_have_text("1.png")
    assert [label_said(one) for one in logged(service, 2) if one.image == PNG[2]] == ["g"]


def test_a_whole_captcha_is_cut_into_its_characters(page: Page, service: RunningService) -> None:
    characters = draw_many(5, 4)[0]
    as_png = [
        cv2.imencode(".png", image)[1].tobytes() for image in (np.hstack(characters), np.vstack(characters))
    ]
    give(page, *as_png)
    expect(tiles(page)).to_have_count(6)
    expect(page.get_by_role("status").last).to_have_text("5 images answered, 1 not.")
    said = page.locator("#said").bounding_box()
    assert said
    for other in ("header", "#try h2", "#drop", "#panel"):  # what is said covers none of them
        box = page.locator(other).bounding_box()
        assert box
        beside = said["x"] >= box["x"] + box["width"] or box["x"] >= said["x"] + said["width"]
        assert beside or said["y"] >= box["y"] + box["height"] or box["y"] >= said["y"] + said["height"], (
            other
        )
    for number, character in enumerate(characters):
        tiles(page).nth(number).click()
        expect(fact(page, "name")).to_have_text(f"0.png, {number + 1} of 5")
        (alone,) = service.predict(cv2.imencode(".png", character)[1].tobytes()).json()["predictions"]
        expect(fact(page, "predicted")).to_have_text(alone["label"])
        page.keyboard.press("x")
    expect(page.locator("#strip .done")).to_have_count(5)
    found = [one for one in logged(service, 11) if one.correction]
    shown = [cv2.imdecode(np.frombuffer(one.image, np.uint8), cv2.IMREAD_GRAYSCALE) for one in found]
    assert {image.tobytes() for image in shown} == {image.tobytes() for image in characters}


def test_a_correction_is_kept_when_the_service_is_back(page: Page, service: RunningService) -> None:
    give(page, PNG[3])
    expect(page.get_by_role("group", name="What is it really?")).to_be_visible()
    page.context.set_offline(True)
    page.keyboard.press("w")
    expect(
        page.get_by_text("Corrections that are not saved: 1 (the service does not answer).")
    ).to_be_visible()
    expect(page.get_by_text("Start it with: captcha-assets serve")).to_be_visible()
    give(page, PNG[4])
    expect(fact(page, "problem")).to_have_text("The service does not answer.")
    page.context.set_offline(False)
    expect(tiles(page).nth(1)).to_have_attribute("aria-label", re.compile(r"(corrected to w|confirmed)$"))
    expect(fact(page, "prediction")).to_be_visible()
    expect(page.locator(".notice")).to_have_count(0)
    latest, before = logged(service, 2)
    assert (latest.image, before.image, label_said(before)) == (PNG[4], PNG[3], "w")


# --- label


def test_the_least_certain_predictions_are_labelled_with_one_key_each(
    browser: Browser, service: RunningService
) -> None:
    for image in PNG[5:9]:
        service.predict(image)
    answer = service.get("/v1/predictions", params={"order": "least-certain", "limit": 100}).json()
    first, second, third = answer["predictions"][:3]
    with opened(browser, service, "/#label") as page:
        total = len(answer["predictions"])
        expect(page.get_by_text(f"0 of {total} labelled")).to_be_visible()
        waiting = corrections_that_wait(page)
        expect(fact(page, "predicted")).to_have_text(first["label"])
        page.keyboard.press("Enter")
        expect(page.get_by_text(f"1 of {total} labelled")).to_be_visible()
        label = another(second["label"])
        page.keyboard.press(label)
        expect(page.get_by_text(f"2 of {total} labelled")).to_be_visible()
        expect(tiles(page).nth(2)).to_have_attribute("aria-current", "true")
        page.keyboard.press("Backspace")  # and another key changes it
        expect(fact(page, "state")).to_contain_text(f"Corrected to {label}.")
        page.keyboard.press("n")
        expect(tiles(page).nth(2)).to_have_attribute("aria-current", "true")
        expect(fact(page, "predicted")).to_have_text(third["label"])
        expect(fact(page, "pending")).to_have_text(str(waiting + 2))
        said = {one.inference_id: label_said(one) for one in logged(service, 100)}
        assert said[first["inference_id"]] == first["label"]
        assert said[second["inference_id"]] == "n"
        assert said[third["inference_id"]] is None
        page.get_by_role("radio", name="Latest first").check()
        latest = service.get("/v1/predictions", params={"limit": 100}).json()["predictions"]
        done = sum(one["correction"] is not None for one in latest)
        expect(page.get_by_text(f"{done} of {len(latest)} labelled")).to_be_visible()
        expect(tiles(page).first).to_have_attribute("aria-current", "true")


def test_the_end_of_the_queue_is_said(browser: Browser, served_home: Path) -> None:
    with running(served_home) as service, opened(browser, service, "/#label") as page:
        expect(page.get_by_text("No prediction waits for a label.")).to_be_visible()
        service.predict(PNG[0])
        page.get_by_role("button", name="Look for more").click()
        expect(fact(page, "prediction")).to_be_visible()
        page.keyboard.press("Enter")
        expect(page.get_by_text("All of these are labelled.")).to_be_visible()
        expect(page.get_by_text("1 of 1 labelled")).to_be_visible()


@pytest.mark.slow
def test_a_hundred_skipped_images_hide_none_of_the_others(browser: Browser, served_home: Path) -> None:
    with running(served_home) as service:
        for _ in range(110):
            service.predict(PNG[0])
        with opened(browser, service, "/#label") as page:
            expect(page.get_by_text("0 of 100 labelled")).to_be_visible()
            for _ in range(100):
                page.keyboard.press("ArrowRight")
            expect(page.get_by_text("0 of 110 labelled")).to_be_visible()


# --- what is not there


@pytest.mark.slow
def test_a_telephone_with_a_key_tries_a_service_that_keeps_no_log(
    browser: Browser, served_home: Path
) -> None:
    keys = served_home / "keys"
    keys.write_text("k" * 20)
    telephone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with (
        running(served_home, api_keys=keys, prediction_log="off") as service,
        opened(browser, service, **telephone) as page,
    ):
        dialog = page.get_by_role("dialog", name="API key")
        for given in ("w" * 20, "k" * 20):
            dialog.get_by_label("Key", exact=True).fill(given)
            dialog.get_by_role("button", name="Go on").click()
            if given.startswith("w"):
                expect(dialog).to_contain_text("does not accept this key")
        expect(dialog).to_be_hidden()
        expect(page.get_by_text("Predictions are not logged here: you can try the model")).to_be_visible()
        give(page, PNG[0], PNG[1])
        expect(fact(page, "prediction")).to_be_visible()
        expect(page.get_by_role("img", name="The image as the model sees it")).to_be_visible()
        expect(page.get_by_role("group", name="What is it really?")).to_be_hidden()
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390
        page.reload()
        expect(fact(page, "model")).to_contain_text("captcha_characters")  # the key is still known
        page.get_by_role("link", name="Label").click()
        expect(page.get_by_text("Nothing is logged here, so there is nothing to label.")).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_without_a_champion_the_page_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()  # of a home, which the service's log alone does not make
    with running(tmp_path, ready=False) as service, opened(browser, service) as page:
        expect(page.get_by_role("status").first).to_contain_text("train one with: captcha-assets update")
        expect(fact(page, "wanted")).to_contain_text("PNG or JPEG, 32\u00d752 pixels")
        give(page, PNG[0])
        expect(fact(page, "problem")).to_contain_text("There is no champion yet")


@pytest.mark.slow
def test_a_busy_service_is_asked_again(browser: Browser, served_home: Path) -> None:
    with running(served_home, max_requests=1) as service, opened(browser, service) as page:
        rejected = 'captcha_requests_total{route="none",status="429"}'
        sent = 0
        while not service.metric(rejected) and sent < 10 * len(PNG):
            give(page, *PNG)
            sent += len(PNG)
            expect(page.get_by_role("status").last).to_have_text(f"{len(PNG)} images answered.")
        assert service.metric(rejected)
        expect(page.locator("#strip .bad")).to_have_count(0)
        assert len(logged(service, 1000)) == sent


@pytest.mark.slow
def test_a_prediction_that_was_not_logged_cannot_be_corrected(browser: Browser, served_home: Path) -> None:
    with running(served_home, prediction_log_sampling=0) as service, opened(browser, service) as page:
        give(page, PNG[0])
        expect(fact(page, "prediction")).to_be_visible()
        page.keyboard.press("x")
        expect(fact(page, "state")).to_have_text("Not saved: the service did not log this prediction.")
        expect(page.locator(".notice")).to_have_count(0)  # another try would not help
