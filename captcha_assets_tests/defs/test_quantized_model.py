"""The champion as int8: materialized when asked for, measured on the test split, the gate a check."""

from pathlib import Path

import dagster as dg
import pytest

from captcha_assets import definitions
from captcha_assets.cli.orchestration import staleness
from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.models.quantization import read_quantization
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home

KEY = dg.AssetKey("quantized_model")


def automation_label(definitions: dg.Definitions) -> str | None:
    condition = definitions.resolve_asset_graph().get(KEY).automation_condition
    return condition.get_label() if condition else None


def test_nothing_quantizes_by_itself_unless_the_service_is_to_answer_with_int8(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = home.definitions.resolve_asset_graph()
    assert KEY not in staleness.selected("*").resolve(graph)
    assert automation_label(home.definitions) is None
    monkeypatch.setenv("CAPTCHA_SERVING_PRECISION", "int8")
    assert KEY in staleness.selected("*").resolve(graph)
    assert automation_label(definitions.defs()) == "on_new_content"


def test_without_a_champion_one_line_says_what_to_do(home: Home) -> None:
    assert home.materialize("quantized_model") == (
        "there is no champion yet; train one with: captcha-assets update"
    )


@pytest.mark.slow
def test_the_champion_is_quantized_when_asked_for_and_the_check_says_what_it_loses(finished: Home) -> None:
    assert finished.update() == []
    assert finished.version("quantized_model") is None
    (outcome,) = finished.update("quantized_model")
    assert outcome.error is None
    model_id = str(finished.version("champion"))
    place = Path(str(finished.settings.paths.quantized_model(model_id)))
    measured = read_quantization(place)
    assert finished.version("quantized_model") == measured.version
    (check,) = finished.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(KEY, "accuracy_loss"), limit=1
    )
    evaluation = check.evaluation
    assert evaluation is not None
    assert (evaluation.passed, evaluation.description) == (measured.passed, measured.words)
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert measured.words in succeeded(finished.settings.paths.home, "status")
    assert finished.update("quantized_model") == [], "up to date"


@pytest.mark.slow
def test_a_quantized_export_that_is_lost_is_materialized_again_with_the_same_content(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTCHA_SERVING_PRECISION", "int8")
    assert [str(outcome.step) for outcome in finished.update()] == ["quantized_model"]
    before = finished.version("quantized_model")
    place = finished.settings.paths.quantized_model(str(finished.version("champion")))
    (place / "model.onnx").unlink()
    said = succeeded(finished.settings.paths.home, "status")
    assert (
        "model.onnx is missing: quantize the model again: captcha-assets update --select quantized_model"
        in said
    )
    assert "train again" not in said
    finished.definitions = with_quiet_console(definitions.defs())
    assert [outcome.error for outcome in finished.update()] == [None]
    assert finished.version("quantized_model") == before
