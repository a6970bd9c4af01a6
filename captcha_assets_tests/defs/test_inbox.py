"""A batch that is dropped into the inbox is taken by the sensor, once."""

import json
import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from captcha_assets.cli import main
from captcha_assets.cli.orchestration import sensor_switches
from captcha_assets.defs import lost_outputs
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.defs.source.inbox_sensor import RETRY_AFTER, inbox_sensor
from captcha_assets.observed_files import BATCH_CATALOG
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets_tests.defs.conftest import Home, open_home


def drop(home: Home, name: str, seed: int, *, settled: bool = True) -> Path:
    home.settings.paths.inbox.mkdir(parents=True, exist_ok=True)
    path = home.settings.paths.inbox / name
    synthetic_batches.write_archive(path, 40, seed=seed)
    if settled:
        before = time.time() - 60
        os.utime(path, (before, before))
    return path


def tick(home: Home, cursor: str | None = None) -> dg.SensorResult:
    """One tick, and what the daemon does with the answer: the partitions are registered."""
    with dg.build_sensor_context(
        instance=home.instance, resources={"settings": home.settings}, cursor=cursor
    ) as context:
        answer = inbox_sensor(context)
    assert isinstance(answer, dg.SensorResult)
    for request in answer.dynamic_partitions_requests or ():
        home.instance.add_dynamic_partitions("batch", request.partition_keys)
    return answer


def requests(answer: dg.SensorResult) -> list[str]:
    return [str(one.partition_key) for one in answer.run_requests or ()]


def skipped(answer: dg.SensorResult) -> str:
    assert answer.skip_reason is not None
    return str(answer.skip_reason.skip_message)


def start(home: Home, request: dg.RunRequest, status: dg.DagsterRunStatus) -> str:
    """What the daemon does with a request: a run with its key and tags, which comes to a status."""
    tags = {**request.tags, "dagster/partition": str(request.partition_key)}
    job = home.definitions.resolve_job_def("ingest_batch")
    run = home.instance.create_run_for_job(job, tags=tags)
    {
        dg.DagsterRunStatus.FAILURE: home.instance.report_run_failed,
        dg.DagsterRunStatus.CANCELED: home.instance.report_run_canceled,
        dg.DagsterRunStatus.STARTED: lambda run: home.instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "ingest_batch"), run.run_id
        ),
    }[status](run)
    return run.run_id


def ingest(home: Home, request: dg.RunRequest) -> str:
    """Run what was asked for, to its end, and return the run's id."""
    job = home.definitions.resolve_job_def("ingest_batch")
    result = job.execute_in_process(
        instance=home.instance,
        partition_key=request.partition_key,
        tags=dict(request.tags),
        asset_selection=[dg.AssetKey("raw_batch")],
        raise_on_error=False,
    )
    return result.run_id


def alerts(home: Home) -> list[str]:
    if not home.settings.paths.alerts.exists():
        return []
    return [json.loads(line)["title"] for line in home.settings.paths.alerts.read_text().splitlines()]


def test_the_catalog_is_observed_with_the_arrival_and_the_index_of_its_run_is_not_stale(home: Home) -> None:
    drop(home, "october.zip", seed=1)
    answer = tick(home)
    assert requests(answer) == ["october"]
    (observed,) = [one for one in answer.asset_events if one.asset_key == dg.AssetKey("batch_catalog")]
    assert isinstance(observed, dg.AssetObservation)
    assert observed.data_version == BATCH_CATALOG.version(home.settings.paths)


def test_an_empty_inbox_starts_nothing_and_is_a_folder(home: Home) -> None:
    assert "nothing in" in skipped(tick(home))
    assert home.settings.paths.inbox.is_dir()


def test_a_dropped_archive_is_registered_and_starts_its_run(home: Home) -> None:
    drop(home, "October 2026.zip", seed=1)
    answer = tick(home)
    assert requests(answer) == ["october-2026"]
    assert home.instance.get_dynamic_partitions("batch") == ["october-2026"]
    assert home.materialize("raw_batch", partition="october-2026") is None
    assert not list(home.settings.paths.inbox.glob("*.zip"))
    assert (home.settings.paths.raw / "october-2026.zip").exists()


def test_a_file_that_is_still_being_copied_is_not_taken(home: Home) -> None:
    drop(home, "late.zip", seed=1, settled=False)
    assert requests(tick(home)) == []


def test_the_same_batch_is_never_taken_twice(home: Home) -> None:
    first = drop(home, "one.zip", seed=1)
    keep = shutil.copy2(first, home.settings.paths.home / "kept.zip")
    tick(home)
    home.materialize("raw_batch", partition="one")
    shutil.copy2(keep, home.settings.paths.inbox / "other-name.zip")
    assert requests(tick(home)) == []


def test_two_batches_of_one_name_do_not_mix(home: Home) -> None:
    drop(home, "same.zip", seed=1)
    tick(home)
    home.materialize("raw_batch", partition="same")
    drop(home, "same.zip", seed=2)
    (second,) = requests(tick(home))
    assert second.startswith("same-")
    home.materialize("raw_batch", partition=second)
    assert home.version("raw_batch", "same") != home.version("raw_batch", second)


def test_a_tick_that_was_lost_is_made_good_by_the_next(home: Home) -> None:
    drop(home, "lost.zip", seed=1)
    with dg.build_sensor_context(instance=home.instance, resources={"settings": home.settings}) as context:
        inbox_sensor(context)  # the daemon died before it could act on the answer
    assert requests(tick(home)) == ["lost"]


# --- again: after a removal, after a failure


def test_a_batch_that_was_removed_is_ingested_again_when_it_is_dropped_again(home: Home) -> None:
    kept = shutil.copy2(drop(home, "one.zip", seed=1), home.settings.paths.home / "kept.zip")
    keys = []
    for _ in range(2):
        shutil.copy2(kept, home.settings.paths.inbox / "one.zip")
        (request,) = tick(home).run_requests or ()
        keys.append(request.run_key)
        ingest(home, request)
        assert not (home.settings.paths.inbox / "one.zip").exists()
        batch_registration.remove(home.settings.paths, "one")
        home.instance.delete_dynamic_partition("batch", "one")
    assert len(set(keys)) == 2


@pytest.mark.slow
def test_a_removed_batch_that_is_dropped_again_is_ingested_by_one_run(home: Home) -> None:
    sensor_switches.switch(home.instance, on=True)
    drop(home, "one.zip", seed=1)
    (request,) = tick(home).run_requests or ()
    ingest(home, request)
    assert CliRunner().invoke(main, ["batch", "remove", "one"]).exit_code == 0
    drop(home, "one.zip", seed=1)
    assert requests(tick(home)) == ["one"]
    assert {loss.removed for loss in lost_outputs.losses(home.instance)} == {True}
    with dg.build_sensor_context(home.instance, resources={"settings": home.settings}) as context:
        assert "one" not in requests(observed_sources(context)), "the inbox sensor has asked for it"


def test_two_ticks_ask_for_one_run_and_none_while_it_is_under_way(home: Home) -> None:
    drop(home, "one.zip", seed=1)
    (first,) = tick(home).run_requests or ()
    (second,) = tick(home).run_requests or ()
    assert first.run_key == second.run_key
    start(home, first, dg.DagsterRunStatus.STARTED)
    assert "a run for one is under way" in skipped(tick(home))


def test_a_failed_ingestion_is_tried_again_later_and_not_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(home, "one.zip", seed=1)
    clock = time.time()
    monkeypatch.setattr("captcha_assets.defs.source.inbox_sensor.time.time", lambda: clock)
    keys, cursor = set(), None
    for wait in RETRY_AFTER:
        (request,) = tick(home).run_requests or ()
        assert request.run_key not in keys
        keys.add(request.run_key)
        start(home, request, dg.DagsterRunStatus.FAILURE)
        clock = time.time()
        assert "tried again in" in skipped(tick(home))
        clock += wait + 60
    (request,) = tick(home).run_requests or ()
    start(home, request, dg.DagsterRunStatus.FAILURE)
    clock += 1e6
    for _ in range(2):
        answer = tick(home, cursor)
        cursor = answer.cursor
        assert f"{len(RETRY_AFTER) + 1} runs failed" in skipped(answer)
        assert "touch" in skipped(answer)
    assert len(alerts(home)) == 1
    os.utime(home.settings.paths.inbox / "one.zip", (1e9, 1e9))
    assert requests(tick(home)) == ["one"]


def test_a_run_that_a_person_canceled_is_not_started_again_behind_their_back(home: Home) -> None:
    drop(home, "one.zip", seed=1)
    (request,) = tick(home).run_requests or ()
    start(home, request, dg.DagsterRunStatus.CANCELED)
    assert "was canceled" in skipped(tick(home))


def test_a_disk_that_was_full_keeps_nothing_in_the_inbox_for_ever(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("captcha_assets.defs.source.inbox_sensor.RETRY_AFTER", (0, 0))
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "home" / "data" / "raw").symlink_to(small_disk, target_is_directory=True)
    (small_disk / "filler").write_bytes(bytes(250_000))
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        drop(opened, "one.zip", seed=1)
        (request,) = tick(opened).run_requests or ()
        failed = opened.instance.get_run_by_id(ingest(opened, request))
        assert failed is not None
        assert failed.status == dg.DagsterRunStatus.FAILURE
        assert (opened.settings.paths.inbox / "one.zip").exists()
        (small_disk / "filler").unlink()
        (request,) = tick(opened).run_requests or ()
        ingest(opened, request)
        assert (opened.settings.paths.raw / "one.zip").exists()
        assert not (opened.settings.paths.inbox / "one.zip").exists()


# --- what cannot be taken


def test_what_cannot_be_taken_is_an_alert_once_and_the_skip_message_always(home: Home) -> None:
    home.settings.paths.inbox.mkdir(parents=True)
    (home.settings.paths.inbox / "notes.txt").write_text("hello")
    (home.settings.paths.inbox / os.fsdecode(b"\xff.zip")).write_text("hello")
    cursor = None
    for _ in range(3):
        answer = tick(home, cursor)
        cursor = answer.cursor
        assert "notes.txt: is neither a zip archive nor a folder" in skipped(answer)
    assert alerts(home) == [
        r"inbox: notes.txt: is neither a zip archive nor a folder",
        r"inbox: \udcff.zip: has a name that is not UTF-8: rename it",
    ]
    (home.settings.paths.inbox / "notes.txt").unlink()
    cursor = tick(home, cursor).cursor
    (home.settings.paths.inbox / "notes.txt").write_text("again")
    tick(home, cursor)
    assert len(alerts(home)) == 3


def test_a_problem_beside_a_batch_that_can_be_taken_is_told_of_too(home: Home) -> None:
    drop(home, "one.zip", seed=1)
    (home.settings.paths.inbox / "notes.txt").write_text("hello")
    assert requests(tick(home)) == ["one"]
    assert len(alerts(home)) == 1


def test_what_is_still_being_copied_is_no_alert(home: Home) -> None:
    drop(home, "late.zip", seed=1, settled=False)
    assert "has just changed" in skipped(tick(home))
    assert alerts(home) == []


def test_an_inbox_that_is_a_file_is_an_alert(home: Home) -> None:
    home.settings.paths.inbox.write_text("a zip, say")
    assert "is a file" in skipped(tick(home))
    assert len(alerts(home)) == 1
