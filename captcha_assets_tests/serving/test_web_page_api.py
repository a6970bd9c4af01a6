"""The routes that the page uses: what was logged, what waits, and what the model sees."""

import sqlite3
from contextlib import closing

import cv2
import httpx
import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets_tests.serving.services import RunningService, png_files, running
from captcha_assets_tests.training.examples import draw_many

pytestmark = pytest.mark.xdist_group("service")

PNG = png_files(6, seed=9)
CLASSES = list(CAPTCHA.classes)


@pytest.fixture
def predicted(service: RunningService) -> list[dict]:
    """The answers to the images."""
    return [service.predict(image).json()["predictions"][0] for image in PNG]


def listed(service: RunningService, **question: object) -> list[dict]:
    answer = service.get("/v1/predictions", params=question)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def correct(service: RunningService, inference_id: str, label: str) -> httpx.Response:
    return service.post("/v1/feedback", json={"inference_id": inference_id, "label": label})


def test_the_latest_predictions_are_listed_as_they_were_answered(
    service: RunningService, predicted: list[dict]
) -> None:
    latest = listed(service, limit=len(PNG))
    assert [one["inference_id"] for one in latest] == [one["inference_id"] for one in reversed(predicted)]
    for one, answer in zip(latest, reversed(predicted), strict=True):
        assert one["scores"] == pytest.approx(answer["scores"], abs=1e-6)
        assert (one["label"], one["correction"]) == (answer["label"], None)
        assert one["model_version"] == service.get("/v1/status").json()["model"]["version"]
    assert correct(service, predicted[-1]["inference_id"], "x").status_code == 200
    (latest_one,) = listed(service, limit=1)
    assert latest_one["correction"]["label"] == "x"


def test_the_least_certain_come_first_and_no_corrected_one_among_them(
    service: RunningService, predicted: list[dict]
) -> None:
    found = listed(service, order="least-certain", limit=1000)
    scores = [one["score"] for one in found]
    assert scores == sorted(scores)
    assert {one["inference_id"] for one in predicted} <= {one["inference_id"] for one in found}
    correct(service, found[0]["inference_id"], "x")
    left = listed(service, order="least-certain", limit=200)
    assert [one["inference_id"] for one in left] == [one["inference_id"] for one in found[1:]]


@pytest.mark.parametrize("question", [{"order": "best"}, {"limit": 0}, {"limit": 1001}, {"limit": "many"}])
def test_a_list_that_is_none_is_rejected(service: RunningService, question: dict) -> None:
    answer = service.get("/v1/predictions", params=question)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
    assert next(iter(question)) in answer.json()["detail"]


def test_an_image_comes_back_as_it_was_sent(service: RunningService) -> None:
    jpeg = cv2.imencode(".jpg", draw_many(1)[0][0])[1].tobytes()
    for image, kind in ((PNG[0], "image/png"), (jpeg, "image/jpeg")):
        sent = service.post("/v1/predict", content=image, headers={"Content-Type": kind})
        inference_id = sent.json()["predictions"][0]["inference_id"]
        answer = service.get(f"/v1/predictions/{inference_id}/image")
        assert (answer.content, answer.headers["Content-Type"]) == (image, kind)
    service.predict(PNG[0], **{"X-Inference-Id": "a/b?c"})
    assert service.get("/v1/predictions/a%2Fb%3Fc/image").content == PNG[0]
    for unknown in ("unknown", "%00", "%F0%9F%99%82", "x" * 300):
        assert service.get(f"/v1/predictions/{unknown}/image").status_code == 404


def test_what_the_model_sees_is_what_it_is_given(service: RunningService) -> None:
    gray = draw_many(1, seed=3)[0][0]
    colour = np.stack([gray, gray // 2, gray // 3], axis=2)
    file = cv2.imencode(".png", colour)[1].tobytes()
    answer = service.post("/v1/decode", content=file, headers={"Content-Type": "image/png"})
    seen = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert seen.shape == CAPTCHA.shape
    exact = colour @ np.array([0.114, 0.587, 0.299])  # of blue, green and red: ITU-R 601
    assert np.abs(seen - exact).max() <= 1
    wrong = service.post("/v1/decode", content=b"text", headers={"Content-Type": "image/png"})
    assert (wrong.status_code, wrong.json()["reason"]) == (415, "not_an_image")


def test_the_status_names_the_model_and_counts_what_waits(
    service: RunningService, predicted: list[dict]
) -> None:
    status = service.get("/v1/status").json()
    assert status["model"] | {"version": ""} == {
        "name": CAPTCHA.name,
        "version": "",
        "precision": "fp32",
        "classes": CLASSES,
        "width": CAPTCHA.width,
        "height": CAPTCHA.height,
        "formats": ["png", "jpeg"],
        "resizes": False,
    }
    sizes = ("width", "height", "formats", "resizes")
    assert status["images"] == {name: status["model"][name] for name in sizes}
    assert (status["log"], status["problem"], status["corrections_in_batch"]) == ("on", None, 50)
    for label in ("a", "b"):  # the second one supersedes the first
        correct(service, predicted[0]["inference_id"], label)
    assert service.get("/v1/status").json()["pending_corrections"] == status["pending_corrections"] + 1


def test_a_row_that_somebody_damaged_is_left_out_and_stops_nothing(
    service: RunningService, predicted: list[dict]
) -> None:
    whole, *damaged = [one["inference_id"] for one in predicted]
    changes = (
        "score = 'high'",
        "probabilities = 'no JSON'",
        "time = 'noon'",
        "image = 3",
        "label = CAST(x'ff' AS TEXT), probabilities = '{\"a\": \"high\"}'",
    )
    listed(service, limit=1)  # the service writes what it answered before
    with closing(sqlite3.connect(service.home / ".serving" / "predictions.db")) as connection, connection:
        for inference_id, change in zip(damaged, changes, strict=True):
            connection.execute(f"UPDATE predictions SET {change} WHERE inference_id = ?", [inference_id])
    for order in ("latest", "least-certain"):
        found = {one["inference_id"] for one in listed(service, order=order, limit=200)}
        assert whole in found
        assert not found & set(damaged)
    for inference_id in damaged:
        answers = [
            service.get(f"/v1/predictions/{inference_id}/image"),
            correct(service, inference_id, "x"),
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert all("is damaged: " in answer.json()["detail"] for answer in answers)


def test_the_routes_are_described(service: RunningService) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    assert {
        "/v1/status",
        "/v1/predictions",
        "/v1/predictions/{inference_id}/image",
        "/v1/decode",
    } <= paths.keys()
    assert not {"/", "/page.js"} & paths.keys()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ],
)
def test_the_page_may_load_nothing_from_elsewhere(service: RunningService, path: str, kind: str) -> None:
    answer = service.get(path)
    assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (200, kind)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert not any(word in policy for word in ("unsafe", "http", "*", "data:"))
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_the_page_can_be_left_out(service: RunningService, served_home) -> None:
    with running(served_home, page="off") as bare:
        for path in ("/", "/page.js", "/v1/predictions", "/v1/status"):
            assert bare.get(path).status_code == 404
        assert bare.predict(PNG[0]).status_code == 200
