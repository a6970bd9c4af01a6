"""What `update` and `status` say and do where files of models and of the registry are lost or damaged."""

import json
from pathlib import Path

import pytest

from captcha_assets.models import registry
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.test_promotion import challenged, compare, fails, say, serving

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

__all__ = ["challenged"]


@pytest.mark.parametrize("content", [None, "garbage", "{}"], ids=["lost", "garbage", "empty"])
def test_a_pointer_to_the_candidate_is_written_again_without_a_training(
    finished: Home, content: str | None
) -> None:
    pointer, model = finished.settings.paths.models / "candidate.json", finished.version("resnet18")
    if content is None:
        pointer.unlink()
    else:
        pointer.write_text(content)
    outcomes = finished.update()
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    (trained,) = [outcome for outcome in outcomes if "resnet18" in outcome.step.assets]
    said = [entry.user_message for entry in finished.instance.all_logs(str(trained.run_id))]
    assert f"{model} is the model of this very training" in said
    assert registry.pointed_at(finished.settings.paths.models) == model
    assert finished.update() == []


@pytest.mark.parametrize("content", [None, "{}", "garbage"], ids=["lost", "empty", "garbage"])
def test_the_evaluation_of_a_champion_that_is_no_candidate_is_made_again_by_a_command(
    challenged: tuple[Home, str], content: str | None
) -> None:
    home, _ = challenged
    compare(home)
    metrics = Path(home.settings.paths.evaluation(serving(home))) / "metrics.json"
    before = say("model", "show", "champion")
    if content is None:
        metrics.unlink()
    else:
        metrics.write_text(content)
    said = say("status")
    assert "figures of its promotion: " in said
    assert f"captcha-assets model evaluate {serving(home)}" in said
    assert "accuracy " in say("model", "evaluate")
    assert "figures of its promotion" not in say("status")
    assert say("model", "show", "champion") == before


def test_an_update_that_cannot_mend_the_champion_fails_and_says_what_does(
    challenged: tuple[Home, str],
) -> None:
    home, _ = challenged
    compare(home)
    champion = serving(home)
    exported = Path(home.settings.paths.onnx_model(champion)) / "model.onnx"
    exported.write_bytes(exported.read_bytes()[:1000])
    assert f"captcha-assets model export {champion}" in str(home.materialize("champion"))
    say("model", "export", champion)
    assert home.materialize("champion") is None
    (home.settings.paths.models / champion / "model.safetensors").unlink()
    message = str(home.materialize("champion"))
    assert f"the champion {champion} cannot be loaded" in message
    assert "captcha-assets model promote" in message


def test_status_names_every_damaged_record_of_the_registry_and_shows_the_rest(
    challenged: tuple[Home, str],
) -> None:
    home, candidate = challenged
    compare(home)
    say("model", "refuse", candidate, "--reason", "by a person")
    assert " is not promoted: " in say("status")
    models = home.settings.paths.models
    (decision,) = (models / "decisions").glob(f"{candidate}--*.json")
    for path in (models / "refused" / f"{candidate}.json", decision, models / "history" / "000001.json"):
        kept = path.read_text()
        path.write_text("garbage")
        assert f"{path} is damaged" in say("status")
        path.write_text(kept)


def test_a_damaged_model_keeps_no_other_from_being_listed(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    (home.settings.paths.models / candidate / "config.json").write_text("{}")
    rows = {row["model"]: row for row in map(json.loads, say("model", "list", "--json").splitlines())}
    assert rows[candidate]["test accuracy"] == f"damaged: captcha-assets model show {candidate}"
    assert rows[serving(home)]["test accuracy"].endswith(")")


def test_lineage_names_a_champion_whose_folder_is_gone(finished: Home) -> None:
    model = serving(finished)
    (finished.settings.paths.models / model).rename(finished.settings.paths.home / "elsewhere")
    assert f"the champion {model} is missing" in fails("lineage", "champion")
