"""The service follows the champion: promotions, rollbacks, damage, and a home without a model."""

import itertools
import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from captcha_assets.models import registry
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.serving.client import PredictedImages, PredictionClient
from captcha_assets_tests.models.conftest import as_if_nothing_served
from captcha_assets_tests.serving.services import RunningService, png_files, running
from captcha_assets_tests.training.examples import draw_many

pytestmark = pytest.mark.xdist_group("service")

PNG = png_files(8)
#: Seconds within which a promotion or rollback is noticed.
NOTICED = 5


def promote(service: RunningService, model_id: str) -> None:
    registry.promote(service.paths.models, model_id, "a test", by="human")


def test_a_service_without_a_champion_lives_and_says_what_to_do(served_home: Path) -> None:
    as_if_nothing_served(served_home / "artifacts" / "models")
    with running(served_home, ready=False) as service:
        assert service.get("/v2/health/live").status_code == 200
        time.sleep(1)
        for answer in (
            service.get("/v2/health/ready"),
            service.predict(PNG[0]),
            service.get("/v2/models/captcha_characters"),
        ):
            assert answer.status_code == 503
            assert "captcha-assets update" in answer.json()["detail"]
            assert answer.headers["Retry-After"]
        (first, *_) = registry.list_models(service.paths.models)
        promote(service, first)
        assert service.wait_ready(first) < NOTICED
        assert service.predict(PNG[0]).json()["model_version"] == first


def test_promotions_and_rollbacks_are_noticed(served_home: Path) -> None:
    with running(served_home) as service:
        first, second, _ = registry.list_models(service.paths.models)
        promote(service, second)
        assert service.wait_ready(second) < NOTICED
        assert service.get("/v2/models/captcha_characters").json()["versions"] == [second]
        registry.rollback(service.paths.models, "a test")
        assert service.wait_ready(first) < NOTICED
        assert service.predict(PNG[0]).json()["model_version"] == first
        assert service.process.stdout
        assert [service.process.stdout.readline().decode() for _ in range(3)] == [
            f"{first} answers now\n",
            f"{second} answers now, instead of {first}\n",
            f"{first} answers now, instead of {second}\n",
        ]


def test_a_damaged_champion_never_answers_and_the_one_before_goes_on(served_home: Path) -> None:
    with running(served_home) as service:
        first, second, third = registry.list_models(service.paths.models)
        exported = service.paths.onnx_model(second) / "model.onnx"
        whole = exported.read_bytes()
        exported.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        promote(service, second)
        deadline = time.monotonic() + 30
        while (state := service.get("/v2/health/ready").json())["problem"] is None:
            assert time.monotonic() < deadline
        time.sleep(3)  # it is tried again, and one alert is sent
        assert state["model_version"] == first
        assert f"champion {second} cannot be loaded; {first} keeps answering" in state["problem"]
        assert str(service.home) not in json.dumps(state)
        assert service.predict(PNG[0]).json()["model_version"] == first
        assert service.metric("captcha_champion_problem") == 1
        (alert,) = service.alerts()
        assert second in alert["title"]
        assert f"{exported} is damaged" in alert["lines"][0]
        assert alert["lines"][0].endswith(f"captcha-assets model export {second}")
        assert f"{exported} is damaged" in (service.home / "service.log").read_text()
        exported.write_bytes(whole)
        service.wait_ready(second)
        assert service.metric("captcha_champion_problem") == 0
        shutil.rmtree(service.paths.onnx_model(third))
        promote(service, third)
        while len(service.alerts()) < 2:
            assert time.monotonic() < deadline + 60
            time.sleep(0.1)
        assert f"captcha-assets model export {third}" in service.alerts()[1]["lines"][0]
        assert service.predict(PNG[0]).json()["model_version"] == second


def test_an_export_that_lies_under_another_models_name_never_answers(served_home: Path) -> None:
    with running(served_home) as service:
        first, second, third = registry.list_models(service.paths.models)
        shutil.rmtree(service.paths.onnx_model(second))
        shutil.copytree(service.paths.onnx_model(third), service.paths.onnx_model(second))
        promote(service, second)
        while not service.alerts():
            time.sleep(0.1)
        assert "holds another model" in service.alerts()[0]["lines"][0]
        assert service.predict(PNG[0]).json()["model_version"] == first


def _ask(
    url: str, images: list[int], stop: threading.Event, answers: list[tuple[list[int], PredictedImages]]
) -> None:
    with PredictionClient(url, timeout=60) as client:
        while not stop.is_set():
            answers.append((images, client.predict([PNG[number] for number in images])))


@pytest.mark.slow
@pytest.mark.no_cover
def test_20_promotions_and_rollbacks_under_load_mix_no_two_models(served_home: Path) -> None:
    """Every request is answered, and by one model: the one that it names."""
    requests = [[number] for number in range(8)] + [[0, 1, 2, 3, 4], [5, 6, 7]]
    answers: list[tuple[list[int], PredictedImages]] = []
    stop = threading.Event()
    with running(served_home, champion_interval=0.2, deadline=30) as service:
        models = registry.list_models(service.paths.models)
        threads = [
            threading.Thread(target=_ask, args=(service.url, one, stop, answers), daemon=True)
            for one in requests
        ]
        for thread in threads:
            thread.start()
        for number, model_id in zip(range(20), itertools.cycle(models[1:] + models[:1]), strict=False):
            if number % 4 == 3:
                registry.rollback(service.paths.models, "a test")
                entry = registry.champion(service.paths.models)
                assert entry
                model_id = entry.model_id  # noqa: PLW2901
            else:
                promote(service, model_id)
            assert service.wait_ready(model_id) < NOTICED
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        failed = [status for status in ("500", "503", "504") if service.metric(_requests(status))]
        assert failed == []
        predictors = {name: OnnxPredictor(Path(service.paths.onnx_model(name))) for name in models}
    pixels = draw_many(8)[0]
    expected = {name: predictor.predict(pixels) for name, predictor in predictors.items()}
    assert {answer.model_version for _, answer in answers} == set(models)
    for numbers, answer in answers:
        for number, found in zip(numbers, answer.predictions, strict=True):
            wanted = expected[answer.model_version][number]
            np.testing.assert_allclose(list(found.scores.values()), wanted, atol=2e-6)


def _requests(status: str) -> str:
    return f'captcha_requests_total{{route="/v1/predict",status="{status}"}}'
