"""Every criterion of a promotion is a check with its figures; a person has the last word."""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.loader import LoadingContextForTest

from captcha_assets.cli import main
from captcha_assets.defs.model.champion_events import report_champion
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.evaluation.criterion_descriptions import CRITERIA
from captcha_assets.models import registry
from captcha_assets.models.manual_promotion_and_rollback import promote_by_hand
from captcha_assets.models.overview import read_metrics
from captcha_assets_tests.defs.conftest import Home, made_once, open_home
from captcha_assets_tests.models.conftest import as_if_nothing_served, make_model

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow


def challenge(home: Home, work: Path) -> str:
    """Make a model that never learned anything the candidate, and return its id."""
    make_model(work / "model", seed=5)
    return registry.add_candidate(home.settings.paths.models, work / "model")


@pytest.fixture
def challenged(finished: Home, tmp_path: Path) -> tuple[Home, str]:
    """A finished home with another candidate, and its id."""
    return finished, challenge(finished, tmp_path)


@pytest.fixture(scope="session")
def compared_folder(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a home in which the candidate was compared with the champion."""

    def make(folder: Path) -> None:
        shutil.copytree(finished_folder, folder, symlinks=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            home = open_home(folder, monkeypatch)
            with home.instance:
                challenge(home, tmp_path_factory.mktemp("challenger"))
                compare(home)

    return made_once(tmp_path_factory, "compared", make)


@pytest.fixture
def compared(
    compared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Home, str]]:
    """A copy of it, to change at will, and the id of the candidate."""
    shutil.copytree(compared_folder, tmp_path / "home", symlinks=True)
    home = open_home(tmp_path / "home", monkeypatch)
    with home.instance:
        candidate = registry.candidate(home.settings.paths.models)
        assert candidate is not None
        yield home, candidate.model_id


def say(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def checks(home: Home) -> dict[str, dg.AssetCheckEvaluation]:
    keys = [dg.AssetCheckKey(dg.AssetKey("champion"), name) for name in CRITERIA]
    records = home.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    found = {key.name: record.evaluation for key, record in records.items()}
    return {name: evaluation for name, evaluation in found.items() if evaluation}


def compare(home: Home) -> None:
    for asset in ("evaluation", "onnx_model", "champion"):
        assert home.materialize(asset) is None


def fails(*arguments: str) -> str:
    """Run a command that fails, and return the one line that it says."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = result.output.strip().splitlines()
    return line


def serving(home: Home) -> str:
    champion = registry.champion(home.settings.paths.models)
    assert champion is not None
    return champion.model_id


def test_the_first_champion_shows_every_criterion(finished: Home) -> None:
    found = checks(finished)
    assert set(found) == set(CRITERIA)
    assert found["non_inferiority"].description == "no champion to compare with"
    assert "ms for one image" in str(found["latency"].description)
    assert "always naming the most common class" in str(found["above_chance"].description)
    assert found["onnx_parity"].passed


def test_a_first_model_that_is_no_better_than_guessing_is_promoted_with_a_warning(
    challenged: tuple[Home, str],
) -> None:
    home, candidate = challenged
    as_if_nothing_served(home.settings.paths.models)
    shutil.rmtree(home.settings.paths.models / "decisions")
    compare(home)
    assert serving(home) == candidate
    found = checks(home)["above_chance"]
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "the first model, but no better than guessing: it reads " in say("model", "show", "champion")
    assert re.search(rf"serves   {candidate} since .*, no better than guessing", say("status"))
    card = home.settings.paths.evaluation(candidate) / "report.html"
    assert "It is no better than guessing: always saying n reads " in card.read_text()


def test_a_candidate_that_was_measured_on_other_splits_is_measured_again(
    challenged: tuple[Home, str],
) -> None:
    home, candidate = challenged
    for asset in ("evaluation", "onnx_model"):
        assert home.materialize(asset) is None
    before = read_metrics(home.settings.paths, candidate)
    home.add("more", "synthetic:200:9")
    for assets, partition in ((("raw_batch",), "more"), (("image_table", "rejected_images"), "more")):
        assert home.materialize(*assets, partition=partition) is None
    assert home.materialize("image_index") is None
    assert home.materialize("splits") is None
    assert home.materialize("champion") is None
    after = read_metrics(home.settings.paths, candidate)
    assert before is not None
    assert after is not None
    assert after["n"] > before["n"]
    assert checks(home)["non_inferiority"].description != "no champion to compare with"


def test_a_worse_candidate_is_not_promoted_with_figures_and_an_alert(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    before = registry.champion(home.settings.paths.models)
    compare(home)
    assert registry.champion(home.settings.paths.models) == before
    found = checks(home)
    assert not all(evaluation.passed for evaluation in found.values())
    assert {"champion", "candidate", "margin"} <= set(found["non_inferiority"].metadata)
    assert "no reason to change" in str(found["reason_to_change"].description)
    last = json.loads(home.settings.paths.alerts.read_text().splitlines()[-1])
    assert last["title"] == f"candidate {candidate} is not promoted, the champion keeps serving"
    assert f"captcha-assets model promote {candidate}" in last["lines"][-1]
    assert candidate != serving(home)


def test_a_candidate_is_compared_once_on_a_test_split(
    compared: tuple[Home, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, candidate = compared
    before = serving(home)
    (record,) = (home.settings.paths.models / "decisions").glob(f"{candidate}--*.json")
    content = record.read_bytes()
    for name, value in {"MARGIN": "0.99", "CALIBRATION_ERROR": "1", "LATENCY": "1000000"}.items():
        monkeypatch.setenv(f"CAPTCHA_PROMOTION_{name}", value)
    assert home.materialize("champion") is None
    assert serving(home) == before, "wider limits get no other decision"
    assert record.read_bytes() == content
    event = home.instance.get_latest_materialization_event(dg.AssetKey("champion"))
    assert event is not None
    assert event.asset_materialization is not None
    assert "a candidate is compared once on a test split" in str(
        event.asset_materialization.metadata["why"].value
    )


def test_a_decision_whose_process_was_killed_before_the_promotion_is_carried_out(finished: Home) -> None:
    model = serving(finished)
    as_if_nothing_served(finished.settings.paths.models)
    assert finished.materialize("champion") is None
    assert serving(finished) == model
    assert len(list((finished.settings.paths.models / "decisions").iterdir())) == 1


def test_a_model_whose_export_is_that_of_another_one_is_never_promoted(finished: Home) -> None:
    models, model = finished.settings.paths.models, serving(finished)
    as_if_nothing_served(models)
    manifest = Path(str(finished.settings.paths.onnx_model(model))) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(model, "resnet18-000000000000"))
    assert f"does not hold the export of {model}" in str(finished.materialize("champion"))
    assert list((models / "history").glob("*")) == []


def test_the_comparison_stays_when_the_candidate_is_the_champion_by_now(compared: tuple[Home, str]) -> None:
    home, candidate = compared
    shown = {name: evaluation.description for name, evaluation in checks(home).items()}
    say("model", "promote", "candidate", "--reason", "a try")
    assert home.materialize("champion") is None
    assert serving(home) == candidate
    assert {name: evaluation.description for name, evaluation in checks(home).items()} == shown


def test_the_champions_report_keeps_its_links_and_says_what_its_interval_means(
    compared: tuple[Home, str],
) -> None:
    home, _ = compared
    page = (home.settings.paths.evaluation(serving(home)) / "report.html").read_text()
    assert 'href="../../quality/image_table/first/report.html"' in page
    compare(home)
    found = json.loads(say("status", "--json"))["champion"]
    assert found["compared"] == 2
    assert found["selected_low"] < found["accuracy_low"] <= found["accuracy"]
    assert "the best of 2 models compared on this test split" in say("status")
    assert "the best of 2 models" in say("model", "show", "champion")


def test_a_report_says_of_how_many_models_it_tells(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    assert home.materialize("evaluation") is None
    page = (home.settings.paths.evaluation(candidate) / "report.html").read_text()
    assert "2 models were compared on this test split" in page
    assert "holds (Bonferroni)" in page


def test_a_person_promotes_and_takes_back_and_dagster_knows(compared: tuple[Home, str]) -> None:
    home, candidate = compared
    before = serving(home)
    said = say("model", "promote", "candidate", "--reason", "a try").splitlines()
    assert said[0] == f"champion: {candidate} (instead of {before})"
    shown = say("model", "show", "champion")
    assert "one of 2 models compared on this test split" in shown
    assert "for the best of" not in shown
    failed = [name for name, check in checks(home).items() if not check.passed]
    assert [line.split()[2] for line in said[1:]] == [name for name in CRITERIA if name in failed]
    assert "promoted although non_inferiority is not met: " in said[1]
    assert home.version("champion") == candidate
    assert home.stale() == [], "a promotion by hand makes nothing out of date"
    said = say("model", "rollback", "--reason", "it reads nothing")
    assert said == f"champion: {before} (instead of {candidate})\n"
    assert home.version("champion") == before
    assert home.stale() == []
    rows = [json.loads(line) for line in say("model", "history", "--json").splitlines()]
    assert checks(home)["non_inferiority"].description == "not compared: rollback by human, it reads nothing"
    served = f"candidate {candidate} served before and is not promoted again: rolled back: it reads nothing"
    assert served in say("status")
    assert [(row["model_id"], row["action"], row["by"]) for row in rows] == [
        (before, "promote", "rule"),
        (candidate, "promote", "human"),
        (before, "rollback", "human"),
    ]
    assert home.materialize("champion") is None
    assert serving(home) == before, "what was rolled back stays so"


def test_a_champion_that_the_sensor_sees_before_the_command_reports_it_is_no_loss_and_reported_once(
    compared: tuple[Home, str],
) -> None:
    home, candidate = compared
    shown, reports = checks(home), home.runs_of("champion")
    sent = home.settings.paths.alerts.read_text()
    promoted = promote_by_hand(home.settings.paths, candidate, "a try")
    with dg.build_sensor_context(home.instance, resources={"settings": home.settings}) as context:
        observed_sources(context)
    assert home.settings.paths.alerts.read_text() == sent
    assert home.version("champion") == candidate
    report_champion(home.settings.paths, home.instance, promoted)
    assert home.runs_of("champion") == reports + 1
    found = checks(home)
    assert found["non_inferiority"].description == shown["non_inferiority"].description
    key = dg.AssetCheckKey(dg.AssetKey("champion"), "non_inferiority")
    latest = home.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    loading = LoadingContextForTest(home.instance)
    assert asyncio.run(latest.targets_latest_materialization(loading)), "the UI shows it as evaluated"


def test_the_record_of_the_champion_is_named_where_it_is_lost_and_the_one_before_would_serve(
    compared: tuple[Home, str],
) -> None:
    home, candidate = compared
    say("model", "promote", "candidate", "--reason", "a try")
    record = registry.record_path(home.settings.paths.models, 2)
    kept = record.read_bytes()
    record.unlink()
    lost = f"{record} is missing, which says what serves: restore it from a backup"
    said = say("status")
    assert f"serves   cannot be read: {lost}" in said
    assert said.count(lost) == 1
    assert "next     no training: what serves cannot be read" in said
    assert lost in fails("model", "rollback", "--reason", "back")
    assert lost in fails("model", "promote", "candidate", "--reason", "again")
    assert lost in fails("model", "history")
    assert lost in str(home.materialize("champion"))
    assert not record.exists(), "nothing takes the place of the lost record"
    record.write_bytes(kept)
    said = say("status")
    assert f"serves   {candidate} since" in said
    assert home.version("champion") == candidate


def test_a_refused_candidate_is_not_promoted_by_the_rule(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    say("model", "refuse", "--reason", "trained on the wrong batches")
    assert home.materialize("champion") is None
    assert serving(home) != candidate
    assert "not compared: refused: trained on the wrong" in str(checks(home)["non_inferiority"].description)
    listed = [json.loads(line) for line in say("model", "list", "--json").splitlines()]
    assert [row["role"] for row in listed if row["model"] == candidate] == ["candidate, refused"]


def test_a_candidate_that_is_not_exported_is_not_compared(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    assert f"the candidate {candidate} is not exported" in str(home.materialize("champion"))
    assert not list((home.settings.paths.models / "decisions").glob(f"{candidate}--*"))


def test_what_was_never_evaluated_or_exported_is_promoted_by_force_only(challenged: tuple[Home, str]) -> None:
    home, candidate = challenged
    said = fails("model", "promote", "candidate", "--reason", "a try")
    assert f"{candidate} was never evaluated, was never exported" in said
    assert "--force" in said
    assert serving(home) != candidate
    say("model", "promote", "candidate", "--reason", "a try", "--force")
    assert serving(home) == candidate


def test_what_was_refused_is_promoted_by_force_only(compared: tuple[Home, str]) -> None:
    home, candidate = compared
    say("model", "refuse", "--reason", "reads nothing")
    assert "was refused: reads nothing" in fails("model", "promote", "candidate", "--reason", "a try")
    say("model", "promote", "candidate", "--reason", "a try", "--force")
    assert serving(home) == candidate


def test_a_truncated_export_is_never_put_in_service(compared: tuple[Home, str]) -> None:
    home, candidate = compared
    before = serving(home)
    export = home.settings.paths.onnx_model(candidate) / "model.onnx"
    export.write_bytes(export.read_bytes()[:1000])
    said = fails("model", "promote", "candidate", "--reason", "a try", "--force")
    assert "model.onnx is damaged" in said
    assert f"captcha-assets model export {candidate}" in said
    assert serving(home) == before
    say("model", "export", "candidate")
    say("model", "promote", "candidate", "--reason", "a try")
    old = home.settings.paths.onnx_model(before) / "model.onnx"
    old.write_bytes(old.read_bytes()[:1000])
    for force in ([], ["--to", before, "--force"]):
        said = fails("model", "rollback", "--reason", "reads nothing", *force)
        assert "model.onnx is damaged (its SHA-256 is not the manifest's): restore the folder" in said
        assert f"captcha-assets model export {before}" in said
    assert serving(home) == candidate
    say("model", "export", before)
    say("model", "rollback", "--reason", "reads nothing")
    assert serving(home) == before


def test_a_rollback_to_a_refused_model_needs_its_name_and_force(compared: tuple[Home, str]) -> None:
    home, candidate = compared
    before = serving(home)
    say("model", "promote", "candidate", "--reason", "a try")
    say("model", "refuse", before, "--reason", "trained on the wrong batches")
    said = fails("model", "rollback", "--reason", "back")
    assert f"{before} served before, but was refused: trained on the wrong batches" in said
    assert f"--to {before} --force" in said
    assert "was refused" in fails("model", "rollback", "--reason", "back", "--to", before)
    assert serving(home) == candidate
    say("model", "rollback", "--reason", "back", "--to", before, "--force")
    assert serving(home) == before


def test_what_would_change_nothing_is_rejected_and_so_is_a_reason_that_says_nothing(
    compared: tuple[Home, str],
) -> None:
    home, candidate = compared
    before = serving(home)
    assert f"{before} serves already" in fails("model", "promote", "champion", "--reason", "again")
    for command in ("promote", "rollback", "refuse"):
        named = [] if command == "rollback" else ["candidate"]
        done = CliRunner().invoke(main, ["model", command, *named, "--reason", " "])
        assert done.exit_code == 2, command
        assert "say why" in done.output, command
    say("model", "promote", "candidate", "--reason", "a try")
    assert f"{candidate} serves already" in fails("model", "rollback", "--reason", "r", "--to", "candidate")
    assert "no model" in fails("model", "rollback", "--reason", "r", "--to", "")
    assert serving(home) == candidate
    assert len(registry.history(home.settings.paths.models)) == 2


DAMAGED = {
    "history/000001.json": ("{}", "it has no number"),
    "candidate.json": ("{}", "it has no model_id, since"),
    "history/000001.json ": (
        '{"number": 1, "model_id": "m", "since": "yesterday", "instead_of": null, "reason": "r"}',
        "since is 'yesterday'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_every_command_names_a_damaged_record_in_one_line(finished: Home, name: str) -> None:
    content, fault = DAMAGED[name]
    path = finished.settings.paths.models / name.strip()
    path.write_text(content)
    model = registry.list_models(finished.settings.paths.models)[0]
    status = CliRunner().invoke(main, ["status"])
    assert f"{path} is damaged: {fault}" in status.output
    assert "serves" in status.output or "history" in name, "the rest is shown all the same"
    commands = [
        ["model", "list"],
        ["model", "show", model],
        ["lineage", model],
        *([["model", "rollback", "--reason", "r"], ["model", "history"]] if "history" in name else []),
        ["predict", __file__, "--model", "candidate" if "candidate" in name else "champion"],
        ["model", "promote", "candidate", "--reason", "r"],
    ]
    for command in commands:
        said = fails(*command)
        assert f"{path} is damaged: {fault}" in said, command
    updated = CliRunner().invoke(main, ["update"])
    assert updated.exception is None or isinstance(updated.exception, SystemExit)
    assert "Traceback" not in updated.output
    assert updated.exit_code == 0 or f"{path} is damaged: {fault}" in updated.output, updated.output
