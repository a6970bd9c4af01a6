"""Every clause of a promotion is a check with its figures; a person has the last word."""

import json
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.evaluation.clauses import CLAUSES
from captcha_assets.models import registry
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.models.conftest import make_model


@pytest.fixture
def challenged(finished: Home, tmp_path: Path) -> tuple[Home, str]:
    """A finished home with another candidate, one that never learned anything, and its id."""
    make_model(tmp_path / "model", seed=5)
    return finished, registry.add_candidate(finished.settings.models, tmp_path / "model")


def say(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def checks(home: Home) -> dict[str, dg.AssetCheckEvaluation]:
    keys = [dg.AssetCheckKey(dg.AssetKey("champion"), name) for name in CLAUSES]
    records = home.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    found = {key.name: record.evaluation for key, record in records.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation}


def test_the_first_champion_shows_every_clause(finished: Home) -> None:
    found = checks(finished)
    assert set(found) == set(CLAUSES)
    assert found["accuracy"].description == "no champion to compare with"
    assert "ms for one image" in str(found["latency"].description)
    assert found["onnx_parity"].passed


def test_a_worse_candidate_is_refused_with_figures_and_an_alert(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    before = registry.champion(home.settings.models)
    for asset in ("evaluation", "onnx_model", "champion"):
        assert home.make(asset) is None
    assert registry.champion(home.settings.models) == before
    found = checks(home)
    assert not all(evaluation.passed for evaluation in found.values())
    assert {"champion", "candidate", "p"} <= set(found["accuracy"].metadata)
    last = json.loads(home.settings.alerts.read_text().splitlines()[-1])
    assert last["title"] == "champion: made, but look at it"
    assert any(line.startswith("the candidate was refused: ") for line in last["lines"])
    assert candidate != registry.champion(home.settings.models).model_id


def test_a_person_promotes_and_takes_back_and_dagster_knows(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    before = registry.champion(home.settings.models).model_id
    for asset in ("evaluation", "onnx_model", "champion"):
        assert home.make(asset) is None
    said = say("model", "promote", "candidate", "--reason", "a try")
    assert said == f"champion: {candidate} (instead of {before})\n"
    assert home.version("champion") == candidate
    assert home.stale() == [], "a promotion by hand makes nothing out of date"
    said = say("model", "rollback", "--reason", "it reads nothing")
    assert said == f"champion: {before} (instead of {candidate})\n"
    assert home.version("champion") == before
    assert home.stale() == []
    rows = [json.loads(line) for line in say("model", "history", "--json").splitlines()]
    assert [(row["model_id"], row["action"], row["by"]) for row in rows] == [
        (before, "promote", "rule"),
        (candidate, "promote", "human"),
        (before, "rollback", "human"),
    ]
    assert home.make("champion") is None
    assert registry.champion(home.settings.models).model_id == before, "what was rolled back stays so"


def test_a_refused_candidate_is_not_promoted_by_the_rule(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    say("model", "refuse", "--reason", "trained on the wrong deliveries")
    assert home.make("champion") is None
    assert registry.champion(home.settings.models).model_id != candidate
    listed = [json.loads(line) for line in say("model", "list", "--json").splitlines()]
    assert [row["role"] for row in listed if row["model"] == candidate] == ["candidate, refused"]
