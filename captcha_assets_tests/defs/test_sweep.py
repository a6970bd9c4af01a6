"""Sweeps as a user runs them, with real trainings of a tiny network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.run_config import NOT_PRODUCTION
from captcha_assets.defs.killed_runs import UNFINISHED
from captcha_assets.defs.observed_sources import observe
from captcha_assets.images.table_parts import version_of
from captcha_assets.paths import REPOSITORY
from captcha_assets.sweeps import definition, trial_records
from captcha_assets.sweeps.trial_records import COMPLETE, FAILED, PRUNED, Record
from captcha_assets_tests.defs.conftest import Home, open_home

#: What the tests of this module share is materialized once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sweep")]

TINY = {"epochs": 2, "channels": [4, 8, 8, 8], "batch_size": 32, "sample_size": None, "weight_decay": 10.0}
#: The second of the two cannot be learnt with: its loss is NaN or infinite after a few steps.
GRID = {"fixed": TINY, "grid": {"learning_rate": [0.01, 100.0]}}
SEARCH = {
    "fixed": TINY,
    "search": {"learning_rate": {"low": 0.005, "high": 0.02}},
    "trials": 3,
    "pruning": {"after_trials": 2, "after_epochs": 1},
}


@pytest.fixture(scope="module")
def swept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home in which the grid was run once, both trials side by side."""
    folder = tmp_path_factory.mktemp("swept") / "home"
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(folder, monkeypatch)
        with opened.instance:
            opened.add("first", "synthetic:300:1")
            outcomes = opened.update("+key:splits")
            assert not [outcome for outcome in outcomes if outcome.error], outcomes
            opened.instance.event_log_storage.set_concurrency_slots("sweep", 2)
        (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
        said = swept(folder)
        assert "1 trained, 1 failed" in said
    return folder


@pytest.fixture
def home(swept_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of it, to change at will."""
    shutil.copytree(swept_folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


def swept(folder: Path, *arguments: str) -> str:
    """What `sweep run` says, whether it succeeds or not."""
    return CliRunner().invoke(main, ["sweep", "run", str(folder / "grid.yaml"), *arguments]).output


def grid_trials(home: Home) -> list[str]:
    return definition.load(home.settings.paths.home / "grid.yaml").trial_names


def test_a_trial_is_recorded_with_its_settings_and_every_epoch(home: Home) -> None:
    name = grid_trials(home)[0]
    record = trial_records.load(home.settings.paths, name)
    assert record is not None
    assert record.state == COMPLETE
    assert record.settings["learning_rate"] == 0.01
    assert record.settings["channels"] == [4, 8, 8, 8]
    assert [entry["epoch"] for entry in record.history] == [1, 2]
    assert record.value == record.history[-1]["validation_accuracy"]
    assert record.splits_version == version_of(home.settings.paths.splits)
    assert home.version("sweep_trial", name) == record.version
    assert not (home.settings.paths.scratch / "sweep" / name).exists()


def test_a_failed_trial_is_recorded_with_the_reason(home: Home) -> None:
    name = grid_trials(home)[1]
    record = trial_records.load(home.settings.paths, name)
    assert record is not None
    assert record.state == FAILED
    assert "lower learning_rate" in str(record.error)
    assert home.version("sweep_trial", name) is None


def test_run_again_only_the_failed_are_tried_again(home: Home) -> None:
    name = grid_trials(home)[1]
    assert [
        str(step) for step in staleness.stale_steps(home.definitions, home.instance, ("sweep_trial",))
    ] == [f"sweep_trial [{name}]"]


def test_a_finished_trial_is_not_trained_again_when_everything_is_materialized(home: Home) -> None:
    name = grid_trials(home)[0]
    before = home.version("sweep_trial", name)
    assert home.materialize("sweep_trial", partition=name) is None
    assert home.version("sweep_trial", name) == before
    (run,) = home.instance.get_runs(limit=1)
    said = [entry.user_message for entry in home.instance.all_logs(run.run_id)]
    assert any("complete already" in message for message in said)
    assert not [message for message in said if "epoch 1/2" in message]


def test_a_file_that_is_started_twice_adds_no_trials(home: Home) -> None:
    before = home.instance.get_dynamic_partitions("trial")
    said = CliRunner().invoke(main, ["sweep", "start", str(home.settings.paths.home / "grid.yaml")])
    assert "2 trials, 0 of them new" in said.output
    assert home.instance.get_dynamic_partitions("trial") == before


def test_a_bad_trial_is_stopped_and_recorded_as_stopped_not_as_failed(home: Home) -> None:
    sweep = definition.Sweep.model_validate({"name": "search", **SEARCH})
    definition.register(home.settings.paths, sweep)
    home.instance.add_dynamic_partitions("trial", sweep.trial_names)
    complete = trial_records.load(home.settings.paths, grid_trials(home)[0])
    for name in sweep.trial_names[:2]:
        trial_records.save(home.settings.paths, perfect(complete, sweep, name))
    name = sweep.trial_names[2]
    assert home.materialize("sweep_trial", partition=name) is None
    record = trial_records.load(home.settings.paths, name)
    assert record is not None
    assert (record.state, len(record.history)) == (PRUNED, 1)
    found = home.instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("sweep_trial"), asset_partitions=[name]), limit=1
    )
    materialization = found.records[0].asset_materialization
    assert materialization is not None
    assert materialization.metadata["state"].value == PRUNED


def perfect(like: Record | None, sweep: definition.Sweep, name: str) -> Record:
    assert like is not None
    history = [{**entry, "validation_accuracy": 1.0} for entry in like.history]
    tried = {"learning_rate": 0.01}
    settings = sweep.settings_with(tried).model_dump()
    return replace(
        like,
        trial=name,
        sweep=sweep.identity,
        parameters=tried,
        settings=settings,
        history=history,
        value=1.0,
    )


def test_the_leaderboard_was_made_with_its_plots(home: Home) -> None:
    event = home.instance.get_latest_materialization_event(dg.AssetKey("sweep_leaderboard"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert (metadata[COMPLETE].value, metadata[FAILED].value) == (1, 1)
    assert [name for name in metadata if name.endswith(": trials")]
    said = CliRunner().invoke(main, ["sweep", "show"]).output
    assert said.index(grid_trials(home)[0]) < said.index(grid_trials(home)[1])


def test_nothing_starts_a_sweep_by_itself(home: Home) -> None:
    keys = staleness.selected("*").resolve(home.definitions.resolve_asset_graph())
    assert not keys & {dg.AssetKey("sweep_trial"), dg.AssetKey("sweep_leaderboard")}
    assert dg.AssetKey("resnet18") in keys
    specs = {spec.key.to_user_string(): spec for spec in home.definitions.resolve_all_asset_specs()}
    assert specs["sweep_trial"].automation_condition is None
    assert specs["sweep_leaderboard"].automation_condition is None


def test_the_next_training_takes_what_won_and_another_winner_makes_it_out_of_date(home: Home) -> None:
    applied = CliRunner().invoke(main, ["sweep", "apply"])
    assert applied.exit_code == 0, applied.output
    step = staleness.Step(("resnet18",))
    assert execution.materialize(home.definitions, home.instance, step)[1] is None
    event = home.instance.get_latest_materialization_event(dg.AssetKey("resnet18"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    record = trial_records.load(home.settings.paths, grid_trials(home)[0])
    assert record is not None
    assert metadata["settings"].value == record.settings
    assert metadata["validation accuracy"].value == pytest.approx(record.value, abs=1e-4), (
        "the same settings, the same model"
    )
    assert "curves" in metadata

    observe(home.settings, home.instance)
    assert not staleness.stale_steps(home.definitions, home.instance, ("resnet18",))
    home.settings.paths.training_settings.write_text("epochs: 1\n")
    again = open_home(home.settings.paths.home, pytest.MonkeyPatch())
    with again.instance:
        (reasons,) = staleness.stale_steps(again.definitions, again.instance, ("resnet18",)).values()
    (reason,) = reasons
    assert reason.startswith(f"{NOT_PRODUCTION}: ")
    assert "epochs: trained with 2, production 1" in reason


def test_without_a_file_the_homes_sweep_is_taken_and_named_and_what_waits_is_shown(home: Home) -> None:
    own = home.settings.paths.home / "configs" / "sweep.yaml"
    own.parent.mkdir(exist_ok=True)
    own.write_text(yaml.safe_dump({"name": "own", "grid": {"epochs": [1, 2]}}))
    said = CliRunner().invoke(main, ["sweep", "start"]).output
    assert f"no FILE was named: using {own}" in said
    names = definition.load(own).trial_names
    shown = CliRunner().invoke(main, ["sweep", "show"]).output
    assert shown.index(grid_trials(home)[0]) < shown.index(names[0])
    assert "2 trials wait or are under way" in shown
    listed = CliRunner().invoke(main, ["sweep", "show", "--json"]).output
    rows = [json.loads(line) for line in listed.splitlines()]
    assert [(row["trial"], row["parameters"]) for row in rows if row["state"] == "waiting"] == [
        (names[0], {"epochs": 1}),
        (names[1], {"epochs": 2}),
    ]


def test_without_any_file_of_the_home_the_sweep_of_the_code_is_taken_and_named(home: Home) -> None:
    said = CliRunner().invoke(main, ["sweep", "start"]).output
    assert f"no FILE was named: using {REPOSITORY / 'configs' / 'sweep.yaml'}" in said


def test_a_home_without_a_sweep_says_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTCHA_HOME", str(tmp_path))
    said = CliRunner().invoke(main, ["sweep", "show"]).output
    assert said == "no sweep was started yet: captcha-assets sweep run\n"


def test_after_an_interrupted_sweep_the_finished_trials_and_those_that_wait_are_shown(home: Home) -> None:
    home.instance.event_log_storage.set_concurrency_slots("sweep", 1)
    file = home.settings.paths.home / "three.yaml"
    grid = {"fixed": {**TINY, "weight_decay": 0.0}, "grid": {"learning_rate": [0.01, 0.02, 0.03]}}
    file.write_text(yaml.safe_dump(grid))
    command = [sys.executable, "-m", "captcha_assets.cli", "sweep", "run", str(file)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(line.startswith("[1/3]") for line in lines)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    shown = CliRunner().invoke(main, ["sweep", "show"]).output
    rows = [line.split() for line in shown.splitlines() if "three-" in line]
    assert ["complete" in row for row in rows] == [True, False, False]
    assert ["waiting" in row for row in rows] == [False, True, True]


def trials_in(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if "captcha_assets.training" in each.cmdline()]


def side_by_side(home: Home) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """Start a sweep, and return it with all of its processes when two of its three trials are trained."""
    file = home.settings.paths.home / "long.yaml"
    grid = {"fixed": {**TINY, "epochs": 5000}, "grid": {"learning_rate": [0.01, 0.02, 0.03]}}
    file.write_text(yaml.safe_dump(grid))
    command = [sys.executable, "-m", "captcha_assets.cli", "sweep", "run", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = [psutil.Process(process.pid)]
    while process.poll() is None and len(trials_in(started)) < 2:
        time.sleep(0.2)
        started = psutil.Process(process.pid).children(recursive=True)
    return process, started


def test_an_interrupt_of_trials_side_by_side_ends_them_all(home: Home) -> None:
    process, started = side_by_side(home)
    process.send_signal(signal.SIGINT)  # to it alone: nobody else ends the others
    _output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert errors.strip() == "Error: interrupted after 0 of 3 trials; the same command continues from there"
    assert len(started) >= 4
    assert not psutil.wait_procs(started, timeout=30)[1]
    assert not home.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))


def test_when_a_sweep_is_killed_its_trials_side_by_side_end_too(home: Home) -> None:
    process, started = side_by_side(home)
    process.kill()  # it alone, and it can end nobody
    process.communicate(timeout=120)
    assert len(started) >= 4
    _ended, left = psutil.wait_procs(started, timeout=60)
    for each in left:
        each.kill()
    assert not left
    assert not home.instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
