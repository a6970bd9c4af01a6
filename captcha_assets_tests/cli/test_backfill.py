"""Backfills: chosen partitions to completion, resumable, with what failed and how to try it again."""

import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import backfills
from captcha_assets.cli.orchestration.backfills import BackfillError
from captcha_assets.cli.orchestration.execution import Outcome
from captcha_assets.cli.orchestration.staleness import Step
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import Home

TABLES = ("image_table", "rejected_images")


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-11"))
def daily() -> None:
    """Something that is partitioned by day."""


DAYS = dg.Definitions([daily])


@pytest.fixture
def three(home: Home) -> Home:
    """A home that knows three batches, the second of which cannot be had."""
    for name in ("one", "two", "three"):
        home.add(name, "synthetic:40:1")
    home.settings.paths.registration("two").unlink()
    return home


def carried_out(home: Home, backfill: backfills.Backfill) -> list[Outcome]:
    events = backfills.run(home.settings, home.definitions, home.instance, backfill)
    return [event for event in events if isinstance(event, Outcome)]


def test_chosen_batches_are_made_inputs_first(three: Home) -> None:
    steps = backfills.plan(
        three.definitions, three.instance, ["image_table", "raw_batch"], {"batch": ["one", "three"]}
    )
    assert [str(step) for step in steps] == [
        "raw_batch [one]",
        "raw_batch [three]",
        "image_table + rejected_images [one]",
        "image_table + rejected_images [three]",
    ]


def test_all_is_every_partition(three: Home) -> None:
    assert len(backfills.plan(three.definitions, three.instance, ["raw_batch"], {"batch": None})) == 3
    assert len(backfills.plan(three.definitions, three.instance, ["raw_batch", "splits"], {})) == 4


def test_days_are_chosen_one_by_one_and_by_ranges(three: Home) -> None:
    def days(*wanted: str) -> list[str | None]:
        return [
            step.partition for step in backfills.plan(DAYS, three.instance, ["daily"], {"day": list(wanted)})
        ]

    assert days("2026-11-03") == ["2026-11-03"]
    assert days("2026-11-02..2026-11-04", "2026-11-09") == [
        "2026-11-02",
        "2026-11-03",
        "2026-11-04",
        "2026-11-09",
    ]


@pytest.mark.parametrize(
    ("assets", "chosen", "words"),
    [
        (["nonsense"], {}, "no such asset: nonsense; known are"),
        (["raw_batch"], {"batch": ["four"]}, "no such batch: four; known are: one, three, two"),
        (["splits"], {"batch": ["one"]}, "none of these assets is partitioned by batch"),
        (["raw_batch"], {"day": ["2026-11-03"]}, "none of these assets is partitioned by day"),
    ],
)
def test_what_is_not_there_is_rejected_by_name(
    three: Home, assets: list[str], chosen: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(BackfillError, match=words):
        backfills.plan(three.definitions, three.instance, assets, chosen)


def test_failures_are_named_and_only_they_are_tried_again(three: Home) -> None:
    steps = backfills.plan(three.definitions, three.instance, ["raw_batch"], {})
    backfill = backfills.begin(three.settings.paths, steps)
    failed = [outcome for outcome in carried_out(three, backfill) if outcome.error]
    assert [outcome.step for outcome in failed] == [Step(("raw_batch",), "two")]
    assert "two" in str(failed[0].error)
    again = backfills.find(three.settings.paths)
    assert backfills.remaining(three.instance, again) == [Step(("raw_batch",), "two")]
    three.add("two", "synthetic:40:2")
    assert [outcome.error for outcome in carried_out(three, again)] == [None]
    assert backfills.unfinished(three.settings.paths) == []
    with pytest.raises(BackfillError, match="no backfill to resume"):
        backfills.find(three.settings.paths)


@pytest.mark.slow
def test_what_was_removed_before_it_was_tried_again_is_named(three: Home) -> None:
    failed = run(three.settings.paths.home, "backfill", "raw_batch", "--batches", "one,two")
    assert "1 materialized, 1 failed" in failed.stdout
    three.instance.delete_dynamic_partition("batch", "two")
    said = succeeded(three.settings.paths.home, "backfill", "--resume").splitlines()
    assert said[-2:] == [
        "raw_batch [two] is not there any more: it was removed meanwhile",
        "0 materialized, 0 failed",
    ]


def test_a_step_whose_input_failed_is_not_tried(three: Home) -> None:
    steps = backfills.plan(
        three.definitions, three.instance, ["raw_batch", "image_table"], {"batch": ["two"]}
    )
    first, second = carried_out(three, backfills.begin(three.settings.paths, steps))
    assert first.run_id
    assert second.run_id is None
    assert second.error == "waits for raw_batch"


def test_a_step_whose_input_is_no_part_of_the_backfill_says_how_to_materialize_both(three: Home) -> None:
    failed = run(three.settings.paths.home, "backfill", "image_table", "--batches", "one")
    advised = "captcha-assets backfill raw_batch image_table --batches one"
    assert f"raw_batch [one] is not materialized: {advised}, or captcha-assets update" in failed.stdout
    assert "2 materialized, 0 failed" in succeeded(three.settings.paths.home, *advised.split()[1:])


def test_a_cluster_whose_nodes_do_not_reach_the_home_materializes_no_batch_and_the_command_says_so(
    home: Home,
) -> None:
    home.add("one", "synthetic:40:1")
    address = "http://127.0.0.1:1"
    said = succeeded(home.settings.paths.home, "backfill", "raw_batch", *TABLES, CAPTCHA_COMPUTE=address)
    assert f"batches are materialized on this machine, not on {address}: the nodes of a cluster" in said
    assert "2 materialized, 0 failed" in said
    said = succeeded(home.settings.paths.home, "backfill", "raw_batch", CAPTCHA_COMPUTE=address)
    assert address not in said


@pytest.mark.slow
def test_an_interrupted_backfill_goes_on_where_it_was(home: Home) -> None:
    for number in range(4):
        home.add(f"batch-{number}", f"synthetic:60:{number}")
    command = [str(Path(sys.executable).with_name("captcha-assets")), "backfill", "raw_batch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("[2/4]"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    assert "resume with: captcha-assets backfill --resume" in said[-1]
    done = len(home.instance.get_materialized_partitions(dg.AssetKey("raw_batch")))
    assert 1 <= done < 4
    resumed = subprocess.run([*command[:2], "--resume"], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"{done} of 4 were materialized before" in resumed.stdout
    assert f"{4 - done} materialized, 0 failed" in resumed.stdout
