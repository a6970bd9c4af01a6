"""`status` says what `update` would do."""

import json
import os
import pty
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
import pytest
from click.testing import CliRunner

from captcha_assets import start_page
from captcha_assets.cli import main
from captcha_assets.sources import batch_registration
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home


def said(*arguments: str) -> str:
    done = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def status() -> dict[str, Any]:
    return json.loads(said("status", "--json"))


def told_by_status() -> list[str]:
    return [f"{step['step']}: {'; '.join(step['reasons'])}" for step in status()["stale"]]


def told_by_update() -> list[str]:
    lines = said("update", "--dry-run").splitlines()
    return [
        line.removeprefix("would materialize ") for line in lines if line.startswith("would materialize ")
    ]


def agree() -> list[str]:
    """What both say."""
    first = told_by_status()
    assert first == told_by_update()
    return first


def test_an_empty_home_has_no_model_and_everything_to_make(home: Home) -> None:
    assert status()["champion"] is None
    assert "image_index: never materialized" in agree()
    assert "no model yet" in said("status")
    assert said("status").splitlines()[-1] == (
        "first    there is no batch yet: captcha-assets batch add NAME SOURCE; or make demo, which adds one "
        "and trains a model"
    )
    home.add("one", "synthetic:40:1")
    assert "there is no batch yet" not in said("status")


def test_on_a_terminal_its_lines_are_as_wide_as_that(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "captcha_assets.cli", "status"]
    environment = {**os.environ, "CAPTCHA_HOME": str(home), "COLUMNS": "60", "TERM": "dumb"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        with os.fdopen(ours, errors="replace") as terminal:
            shown = _read(terminal)
    assert process.returncode == 0
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 60
    assert "first    there is no batch yet: captcha-assets batch add" in lines
    assert "         NAME SOURCE; or make demo, which adds one and" in lines


def _read(terminal: TextIO) -> str:
    """Read until the other side is closed, which a terminal reports as an error."""
    found = ""
    with suppress(OSError):
        while text := terminal.readline():
            found += text
    return found


@pytest.mark.slow
def test_status_agrees_with_update_while_a_batch_goes_through(home: Home) -> None:
    agree()
    # registered by another process, without an event in Dagster
    batch_registration.register(home.settings, "one", batch_registration.parse_source("synthetic:40:1"))
    assert "raw_batch [one]: never materialized" in agree()
    home.instance.add_dynamic_partitions("batch", ["one"])
    assert home.materialize("raw_batch", partition="one") is None
    assert not [line for line in agree() if line.startswith("raw_batch")]
    assert home.materialize("image_table", "rejected_images", partition="one") is None
    assert not [line for line in agree() if "[one]" in line]


def test_what_failed_says_why(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    batch_registration.register(home.settings, "late", batch_registration.parse_source("synthetic:40:1"))
    home.instance.add_dynamic_partitions("batch", ["late"])
    with monkeypatch.context() as broken:
        broken.setattr("captcha_assets.sources.synthetic_batches.write_archive", _fail)
        assert home.materialize("raw_batch", partition="late") is not None
    (step,) = [step for step in status()["stale"] if step["step"] == "raw_batch [late]"]
    assert step["last_failure"].endswith("the source is closed today")
    assert "raw_batch [late]: never materialized; its last run failed: " in said("status")
    assert home.materialize("raw_batch", partition="late") is None
    assert all(step["last_failure"] is None for step in status()["stale"])
    with monkeypatch.context() as broken:
        broken.setattr("captcha_assets.images.table.build_image_table", _fail)
        assert home.materialize("image_table", "rejected_images", partition="late") is not None
    (step,) = [step for step in status()["stale"] if step["step"] == "image_table + rejected_images [late]"]
    assert step["last_failure"].endswith("the source is closed today")


def test_why_a_batch_is_quarantined_stands_in_one_line_also_when_it_is_stale(
    home: Home, mostly_bad_archive: Path
) -> None:
    home.add("bad", str(mostly_bad_archive))
    assert home.materialize("raw_batch", partition="bad") is None
    assert home.materialize("image_table", "rejected_images", partition="bad") is not None
    with (home.settings.paths.raw / "bad.zip").open("ab") as archive:
        archive.write(b"damaged")
    lines = [line for line in said("status").splitlines() if "bad" in line]
    assert len([line for line in lines if line.startswith("stale    image_table")]) == 1
    assert [line for line in lines if "is quarantined:" in line] == [
        "waits    batch bad is quarantined: share_of_rejects failed"
    ]


def _fail(*_: object) -> None:
    raise batch_registration.BatchError("the source is closed today")


@pytest.mark.slow
def test_a_finished_home_is_up_to_date_and_says_who_serves(finished: Home) -> None:
    assert agree() == []
    found = status()
    model = finished.version("resnet18")
    assert found["champion"]["model"] == found["last_training"]["model"] == model
    low, accuracy, high = (found["champion"][name] for name in ("accuracy_low", "accuracy", "accuracy_high"))
    assert low <= accuracy <= high
    assert found["last_drift"]["batch"] == "first"
    assert (found["drifted"], found["not_promoted"]) == ([], None)
    assert "new training images since" in found["next_training"]
    words = said("status")
    assert f"serves   {model} since " in words
    assert "everything is up to date" in words


@pytest.mark.slow
def test_the_run_that_is_shown_is_the_one_that_trained_the_model_not_one_that_found_it(
    finished: Home,
) -> None:
    trained = status()["last_training"]
    model = finished.settings.paths.models / trained["model"]
    assert trained["run_id"] == json.loads((model / "config.json").read_text())["provenance"]["run_id"]
    (finished.settings.paths.models / "candidate.json").unlink()
    before = finished.runs_of("resnet18")
    assert finished.materialize("resnet18") is None
    assert finished.runs_of("resnet18") == before + 1
    assert status()["last_training"] == trained


@pytest.mark.slow
def test_status_sees_what_makes_a_finished_home_stale(finished: Home, mostly_bad_archive: object) -> None:
    assert agree() == []
    log = finished.settings.paths.home / ".serving" / "predictions.db"
    log.parent.mkdir(exist_ok=True)
    log.write_bytes(b"no database at all" * 100)
    assert "served predictions: their log cannot be read" in status()["next_training"]
    log.unlink()
    batch_registration.register(
        finished.settings, "bad", batch_registration.parse_source(str(mostly_bad_archive))
    )
    assert "raw_batch [bad]: never materialized" in agree()
    finished.instance.add_dynamic_partitions("batch", ["bad"])
    finished.materialize("raw_batch", partition="bad")
    finished.materialize("image_table", "rejected_images", partition="bad")
    agree()
    (held,) = status()["quarantined"]
    assert (held["batch"], held["failed"]) == ("bad", ["share_of_rejects"])
    finished.instance.wipe_assets([dg.AssetKey("onnx_model")])
    assert "onnx_model: never materialized" in agree()


def test_the_drift_that_is_shown_is_that_of_a_batch_which_is_there(tmp_path: Path) -> None:
    for name, seed in (("stays", 1), ("goes", 2)):
        succeeded(tmp_path, "batch", "add", name, f"synthetic:40:{seed}")
        succeeded(tmp_path, "update", "--select", "+key:image_table")
    assert "drift    batch goes at " in succeeded(tmp_path, "status")
    succeeded(tmp_path, "batch", "remove", "goes")
    shown = succeeded(tmp_path, "status")
    assert "drift    batch stays at " in shown
    assert "batch goes" not in shown


def test_a_run_under_way_is_shown(home: Home) -> None:
    run = dg.DagsterRun(
        "__ASSET_JOB",
        run_id=str(uuid.uuid4()),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "one"},
        asset_selection=frozenset([dg.AssetKey("raw_batch")]),
    )
    home.instance.add_run(run)
    (shown,) = status()["runs"]
    assert (shown["run_id"], shown["status"], shown["materializes"]) == (run.run_id, "started", "raw_batch")
    assert f"runs     run {run.run_id[:8]} since" in said("status")


def test_a_run_that_names_no_assets_is_shown_with_what_it_materializes(home: Home) -> None:
    keys = {dg.AssetKey("image_table"), dg.AssetKey("rejected_images")}
    job = home.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
    home.instance.create_run_for_job(
        job_def=job, tags={"dagster/partition": "one"}, status=dg.DagsterRunStatus.STARTED
    )
    (shown,) = status()["runs"]
    assert shown["materializes"] == "image_table, rejected_images"
    assert "__ASSET_JOB" not in said("status")


def test_a_log_that_cannot_be_read_is_named_by_status_and_update(home: Home) -> None:
    log = home.settings.paths.home / ".serving" / "predictions.db"
    log.parent.mkdir()
    log.write_bytes(b"no database at all" * 100)
    words = (
        f"the prediction log cannot be used: file is not a database ({log}): move it and its -wal "
        "and -shm files away, and the service starts a new one; to restore a backup, stop the service first"
    )
    assert f"waits    {words}" in said("status")
    assert words in said("update", "--dry-run").splitlines()
    assert words in said("update", "--dry-run", "--select", "key:prediction_log").splitlines()
    assert words not in said("update", "--dry-run", "--select", "key:splits")


def test_a_check_under_way_hides_nothing(finished: Home) -> None:
    before = status()["last_drift"]
    keys = {dg.AssetKey("image_table"), dg.AssetKey("rejected_images")}
    job = finished.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=keys)
    finished.instance.create_run_for_job(
        job_def=job,
        asset_selection=frozenset(keys),
        tags={"dagster/partition": "first"},
        status=dg.DagsterRunStatus.STARTED,
    )
    planned = dg.EventRecordsFilter(event_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED)
    assert finished.instance.get_event_records(planned, limit=1)
    assert status()["last_drift"] == before
    assert before is not None


def test_the_start_page_of_the_reports_says_when_the_splits_are_newer_than_a_model_s_figures(
    finished: Home,
) -> None:
    words = "stale, the splits are newer: captcha-assets update"
    assert words not in start_page.page(finished.settings)
    finished.add("more", "synthetic:40:3")
    finished.update("+key:splits")
    assert words in start_page.page(finished.settings)
