"""The service with int8: it answers where the gate was passed, and with fp32, saying so, where not."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.models import registry
from captcha_assets.models.manifest import sha256
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.models.quantization import quantize
from captcha_assets.paths import Paths
from captcha_assets.serving.settings import load_serving_settings
from captcha_assets.settings import SettingsError
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.models.trained import clear, drawn, trained
from captcha_assets_tests.serving.services import RunningService, png_files, running

pytestmark = [pytest.mark.xdist_group("service"), pytest.mark.slow]

PNG = png_files(8)
BLACK = np.zeros((50, *CAPTCHA.shape), np.uint8)


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A home whose champion reads characters, and is exported."""
    paths, made = Paths(home=tmp_path / "quantized"), trained(tmp_path_factory)
    model_id = registry.add_candidate(paths.models, made / "model")
    shutil.copytree(made / "onnx", paths.onnx_model(model_id))
    registry.promote(paths.models, model_id, "a test")
    return paths


def champion_of(paths: Paths) -> str:
    entry = registry.champion(paths.models)
    assert entry
    return entry.model_id


def quantized(paths: Paths, calibration: np.ndarray | None = None) -> Path:
    """Quantize the champion; calibrated on black images, it loses too much."""
    model_id = champion_of(paths)
    place, export = Path(paths.quantized_model(model_id)), Path(paths.onnx_model(model_id))
    quantize(export, place, drawn(200, seed=7)[0] if calibration is None else calibration, *clear(export))
    return place


def waited(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def ready(service: RunningService) -> dict:
    return service.get("/v2/health/ready").json()


def precisions(service: RunningService) -> set[str]:
    """The precision that answers, wherever the service says it."""
    model = service.get("/v2/models/captcha_characters").json()["properties"]["precision"]
    (line,) = [
        one for one in service.get("/metrics").text.splitlines() if one.startswith("captcha_model_info")
    ]
    measured = line.partition('precision="')[2].partition('"')[0]
    status = service.get("/v1/status").json()["model"]["precision"]
    return {ready(service)["precision"], model, measured, status}


def answers_as(service: RunningService, export: Path) -> bool:
    """Whether the service says what an export says, and names its file."""
    found = [service.predict(image).json()["predictions"][0]["scores"] for image in PNG]
    expected = OnnxPredictor(export).predict(drawn(8, seed=0)[0])
    digest = service.get("/v2/models/captcha_characters").json()["properties"]["digest"]
    same = np.allclose([list(scores.values()) for scores in found], expected, atol=1e-5)
    return same and digest == sha256(export / "model.onnx")


def test_with_int8_the_quantized_export_answers_and_the_service_says_so(home: Paths) -> None:
    place, model_id = quantized(home), champion_of(home)
    with running(home.home, precision="int8") as service:
        assert precisions(service) == {"int8"}
        assert ready(service)["problem"] is None
        assert service.metric("captcha_precision_problem") == 0
        assert answers_as(service, place)
        answer = service.predict(PNG[0], **{"X-Inference-Id": "one"}).json()
        assert answer["model_version"] == model_id
        assert service.alerts() == []
    origin = json.loads(succeeded(home.home, "lineage", "one", "--json"))["derived_from"][0]["facts"]
    assert origin["model.onnx"] == sha256(place / "model.onnx")
    assert origin["export"] == "quantized_model"


def test_without_the_setting_fp32_answers_although_there_is_a_quantized_export(home: Paths) -> None:
    quantized(home)
    with running(home.home) as service:
        assert precisions(service) == {"fp32"}
        assert ready(service)["problem"] is None
        assert service.metric("captcha_precision_problem") == 0
        assert answers_as(service, Path(home.onnx_model(champion_of(home))))


def test_a_quantized_export_that_loses_too_much_is_refused_and_fp32_answers(home: Paths) -> None:
    quantized(home, BLACK)
    assert "refused: int8 loses" in succeeded(home.home, "model", "show", "champion")
    with running(home.home, precision="int8") as service:
        assert precisions(service) == {"fp32"}
        assert "answers with fp32, not int8; refused: int8 loses" in ready(service)["problem"]
        assert service.metric("captcha_precision_problem") == 1
        assert service.metric("captcha_champion_problem") == 0
        assert answers_as(service, Path(home.onnx_model(champion_of(home))))
    assert "percentage points of accuracy" in (home.home / "service.log").read_text()


def test_a_damaged_quantized_export_never_answers_and_an_alert_says_so(home: Paths) -> None:
    place = quantized(home)
    whole = (place / "model.onnx").read_bytes()
    (place / "model.onnx").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with running(home.home, precision="int8") as service:
        assert precisions(service) == {"fp32"}
        assert answers_as(service, Path(home.onnx_model(champion_of(home))))
        time.sleep(3)  # it is tried again, and told once
        (alert,) = service.alerts()
        assert "answers with fp32, not int8" in alert["title"]
        assert "model.onnx is damaged" in alert["lines"][0]
        assert "the log of the service and alerts.jsonl say why" in ready(service)["problem"]
        assert str(service.home) not in json.dumps(ready(service))
        (place / "model.onnx").write_bytes(whole)
        assert waited(lambda: ready(service)["precision"] == "int8")
        assert service.metric("captcha_precision_problem") == 0


def test_an_export_that_is_quantized_while_the_service_runs_is_noticed_and_so_is_a_refusal(
    home: Paths,
) -> None:
    with running(home.home, precision="int8") as service:
        assert precisions(service) == {"fp32"}
        assert "captcha-assets update --select quantized_model" in ready(service)["problem"]
        place = quantized(home)
        assert waited(lambda: ready(service)["precision"] == "int8")
        assert answers_as(service, place)
        quantized(home, BLACK)
        assert waited(lambda: ready(service)["precision"] == "fp32")
        assert "refused" in ready(service)["problem"]
        shutil.rmtree(place)
        assert waited(lambda: "not quantized yet" in ready(service)["problem"])
        assert service.alerts() == []


def test_a_champion_without_a_quantized_export_is_served_all_the_same(home: Paths, served_home: Path) -> None:
    quantized(home)
    before, other = champion_of(home), Paths(home=served_home)
    second = registry.list_models(other.models)[0]
    shutil.copytree(other.models / second, home.models / second)
    shutil.copytree(other.onnx_model(second), home.onnx_model(second))
    with running(home.home, precision="int8") as service:
        assert precisions(service) == {"int8"}
        registry.promote(home.models, second, "a test", by="human")
        service.wait_ready(second)
        assert precisions(service) == {"fp32"}
        registry.rollback(home.models, "a test")
        service.wait_ready(before)
        assert waited(lambda: precisions(service) == {"int8"})


def test_a_precision_that_is_none_is_rejected(home: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_SERVING_PRECISION", "int4")
    with pytest.raises(SettingsError, match="CAPTCHA_SERVING_PRECISION='int4' cannot be used"):
        load_serving_settings()
    done = run(home.home, "serve", "--port", "0")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
