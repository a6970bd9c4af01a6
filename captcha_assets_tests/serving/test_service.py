"""The service over HTTP, a process of its own: what it answers, and what it says where it does not."""

import gzip
import json
import re
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from captcha_assets.paths import REPOSITORY
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.documentation.pages import blocks
from captcha_assets_tests.serving.services import RunningService, png_files, running
from captcha_assets_tests.training.examples import draw_many

pytestmark = pytest.mark.xdist_group("service")

PNG = png_files(4)


def form(*images: bytes, name: str = "image") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{number}.png", image, "image/png")) for number, image in enumerate(images)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb() -> bytes:
    """A PNG file that says it has 30,000 by 30,000 pixels, and holds zeros for all of them."""
    deflate = zlib.compressobj(9)
    rows = b"".join(deflate.compress(bytes(30_001)) for _ in range(30_000)) + deflate.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# --- predictions


def test_the_service_says_what_predict_says(service: RunningService, tmp_path: Path) -> None:
    for number, image in enumerate(PNG):
        (tmp_path / f"{number}.png").write_bytes(image)
    printed = succeeded(service.home, "predict", str(tmp_path), "--json").splitlines()
    answer = service.post("/v1/predict", files=form(*PNG)).json()
    assert answer["model_name"] == "captcha_characters"
    for image, line, found in zip(PNG, printed, answer["predictions"], strict=True):
        said = json.loads(line)
        assert (found["label"], round(found["score"], 4)) == (said["label"], said["probability"])
        assert found["scores"][found["label"]] == found["score"] == max(found["scores"].values())
        assert sum(found["scores"].values()) == pytest.approx(1, abs=1e-4)
        (alone,) = service.predict(image).json()["predictions"]
        assert alone["scores"] == pytest.approx(found["scores"], abs=2e-6)
    printed = succeeded(service.home, "predict", str(tmp_path), "--json", "--url", service.url).splitlines()
    assert [json.loads(line)["label"] for line in printed] == [
        found["label"] for found in answer["predictions"]
    ]


def test_a_jpeg_file_is_read_too(service: RunningService) -> None:
    jpeg = cv2.imencode(".jpg", draw_many(1)[0][0])[1].tobytes()
    answer = service.post("/v1/predict", content=jpeg, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200


def test_a_caller_may_name_an_image(service: RunningService) -> None:
    (found,) = service.predict(PNG[0], **{"X-Inference-Id": "mine-1"}).json()["predictions"]
    assert found["inference_id"] == "mine-1"
    for wrong in ("two words", "x" * 201):
        rejected = service.predict(PNG[0], **{"X-Inference-Id": wrong})
        assert rejected.status_code == 422
    rejected = service.post("/v1/predict", files=form(*PNG[:2]), headers={"X-Inference-Id": "mine"})
    assert rejected.status_code == 422
    assert "names one image, and 2 were sent" in rejected.json()["detail"]


SMALL = cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes()
WRONG = {
    "text": (b"hello", "text/plain", 415, None),
    "no content type": (PNG[0], "", 415, None),
    "not an image": (b"hello", "image/png", 415, "not_an_image"),
    "another format": (b"GIF89a....", "image/png", 415, "unsupported_format"),
    "nothing": (b"", "image/png", 422, "empty"),
    "cut off": (PNG[0][:-20], "image/png", 422, "corrupt"),
    "another size": (SMALL, "image/png", 422, "wrong_size"),
    "a form without its boundary": (b"x", "multipart/form-data", 400, None),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_image_gets_a_problem_with_a_reason(service: RunningService, case: str) -> None:
    content, kind, status, reason = WRONG[case]
    answer = service.post("/v1/predict", content=content, headers={"Content-Type": kind} if kind else {})
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem.get("reason")) == (status, status, reason)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["detail"]


def test_a_compressed_body_is_rejected_with_what_to_send_instead(service: RunningService) -> None:
    correction = json.dumps({"inference_id": "unknown", "label": "a"}).encode()
    for path, kind, content in (
        ("/v1/predict", "image/png", PNG[0]),
        ("/v1/feedback", "application/json", correction),
    ):
        headers = {"Content-Type": kind, "Content-Encoding": "gzip"}
        answer = service.post(path, content=gzip.compress(content), headers=headers)
        assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "identity")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "send it uncompressed" in answer.json()["detail"]
    assert service.predict(PNG[0], **{"Content-Encoding": "identity"}).status_code == 200


def test_one_bad_image_of_several_is_named(service: RunningService) -> None:
    problem = service.post("/v1/predict", files=form(PNG[0], PNG[1][:-20], PNG[2])).json()
    assert (problem["reason"], problem["image"]) == ("corrupt", 1)


def test_a_form_holds_images_and_not_too_many(service: RunningService) -> None:
    assert service.post("/v1/predict", files=form(PNG[0], name="picture")).status_code == 422
    assert service.post("/v1/predict", files=form(*[PNG[0]] * 64)).status_code == 200
    answer = service.post("/v1/predict", files=form(*[PNG[0]] * 65))
    assert answer.status_code == 400
    assert "64" in answer.json()["detail"]


def test_a_decompression_bomb_costs_no_memory(service: RunningService) -> None:
    content = bomb()
    assert len(content) < 1 << 20
    service.predict(PNG[0])
    before = service.memory()
    for _ in range(5):
        answer = service.predict(content)
        assert (answer.status_code, answer.json()["reason"]) == (422, "wrong_size")
    assert service.memory() - before < 50 << 20  # the image has 900 MB


def test_metadata_of_an_image_is_neither_inflated_nor_reported(service: RunningService) -> None:
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 << 20)))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(5000)))
    answer = service.predict(PNG[0][:33] + text + profile + PNG[0][33:]).json()
    assert answer["predictions"][0]["scores"] == service.predict(PNG[0]).json()["predictions"][0]["scores"]
    assert "libpng" not in (service.home / "service.log").read_text()


def test_every_answer_has_security_headers_and_no_error_tells_of_the_inside(service: RunningService) -> None:
    answers = [
        service.get("/v2/health/live"),
        service.get("/nowhere"),
        service.get("/v1/predict"),
        service.post("/v1/feedback", content=b"{", headers={"Content-Type": "application/json"}),
        service.post("/v2/models/captcha_characters/infer", content=b"[]"),
        service.get("/v2/models/another"),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 405, 422, 400, 404]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "server" not in answer.headers
        assert not re.search(r"/tmp|/home|site-packages|Traceback|\.py", answer.text)
    assert all(answer.headers["Content-Type"] == "application/problem+json" for answer in answers[1:])


def test_metrics_count_what_happens(service: RunningService) -> None:
    name = 'captcha_requests_total{route="/v1/predict",status="200"}'
    requests, images = service.metric(name), service.metric("captcha_batch_images_sum")
    service.post("/v1/predict", files=form(*PNG))
    assert service.metric(name) == requests + 1
    assert service.metric("captcha_batch_images_sum") == images + len(PNG)
    page = service.get("/metrics").text
    version = service.get("/v2/health/ready").json()["model_version"]
    assert re.search(rf'captcha_model_info{{.*version="{version}"}} 1', page)
    for metric in ("request_seconds", "queue_seconds", "compute_seconds", "score"):
        assert service.metric(f'captcha_{metric}_bucket{{le="+Inf"}}') or f"captcha_{metric}_bucket" in page
    assert "captcha_queue_images 0.0" in page
    assert "_created" not in page
    assert "captcha_predictions_total{label=" in page


# --- corrections


def test_a_correction_is_stored_and_a_later_one_supersedes_it(service: RunningService) -> None:
    (found,) = service.predict(PNG[0]).json()["predictions"]
    for label, annotator in (("a", None), ("b", "me")):
        body = {"inference_id": found["inference_id"], "label": label, "annotator": annotator}
        stored = service.post("/v1/feedback", json=body)
        assert (stored.status_code, stored.json()["label"]) == (200, label)
    wrong = [
        ({"inference_id": "unknown", "label": "a"}, 404),
        ({"inference_id": found["inference_id"], "label": "Z"}, 422),
        ({"inference_id": found["inference_id"]}, 422),
        ({"inference_id": found["inference_id"], "label": "a", "more": 1}, 422),
        ({"inference_id": "\ud800", "label": "a"}, 422),
    ]
    for body, status in wrong:
        content = json.dumps(body)
        answer = service.post("/v1/feedback", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, answer.text


def test_what_is_logged_is_what_was_sent_and_said(service: RunningService) -> None:
    from captcha_assets.serving.prediction_log import open_prediction_log

    (found,) = service.predict(PNG[1]).json()["predictions"]
    service.post("/v1/feedback", json={"inference_id": found["inference_id"], "label": "c"})
    version = service.get("/v2/health/ready").json()["model_version"]
    with open_prediction_log(f"sqlite:///{service.home / '.serving' / 'predictions.db'}") as log:
        logged = log.prediction(found["inference_id"])
    assert (logged.image, logged.label, logged.model_version) == (PNG[1], found["label"], version)
    assert logged.correction
    assert logged.correction.label == "c"
    assert dict(zip(logged.classes, logged.probabilities, strict=True)) == pytest.approx(
        found["scores"], abs=1e-6
    )
    image = draw_many(4)[0][1]
    facts = {"brightness": image.mean(), "contrast": image.std(), "foreground_fraction": np.mean(image < 128)}
    assert logged.statistics == pytest.approx(facts, abs=1e-3)


def test_a_damaged_log_is_reported_and_predictions_are_answered(served_home: Path) -> None:
    log = served_home / ".serving" / "predictions.db"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(bytes(range(256)) * 64)
    with running(served_home) as service:
        assert service.predict(PNG[0]).status_code == 200
        deadline = time.monotonic() + 60
        while not service.alerts():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        state = service.get("/v2/health/ready").json()
        assert state["ready"]
        assert state["problem"].startswith("the prediction log cannot be used: predictions are answered")
        assert str(served_home) not in state["problem"]
        assert service.metric("captcha_prediction_log_problem") == 1
        said = f"file is not a database ({log}): move it and its -wal and -shm files away"
        assert said in service.alerts()[0]["lines"][0]
        assert said in (served_home / "service.log").read_text()
        log.unlink()  # what waited is written to a new one, and nothing is wrong any more
        while service.get("/v2/health/ready").json()["problem"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert service.metric("captcha_prediction_log_written_total") == 1
        assert len(service.alerts()) == 1


def test_logging_can_be_turned_off(served_home: Path) -> None:
    with running(served_home, prediction_log="off") as service:
        (found,) = service.predict(PNG[0]).json()["predictions"]
        answer = service.post("/v1/feedback", json={"inference_id": found["inference_id"], "label": "a"})
        assert answer.status_code == 501
        assert "prediction_log" not in service.get("/metrics").text
    assert not (served_home / ".serving").exists()


def test_the_answer_has_the_fields_that_the_page_shows(service: RunningService) -> None:
    (text,) = blocks(REPOSITORY / "docs" / "serving.md", "json")
    shown, answered = json.loads(text), service.predict(png_files(1)[0]).json()
    assert answered.keys() == shown.keys()
    assert answered["predictions"][0].keys() == shown["predictions"][0].keys()
