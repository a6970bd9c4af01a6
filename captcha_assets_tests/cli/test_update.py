"""`update` materializes what is missing or stale, and nothing else."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.defs.batch_removal import remove_batch
from captcha_assets.images import table
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home

PARTITIONED = ("raw_batch", "image_table", "rejected_images")


def requested(home: Home, cursor: object = None) -> tuple[set[tuple[str, str | None]], object]:
    """What the automation policy asks for in one tick."""
    result = dg.evaluate_automation_conditions(home.definitions, home.instance, cursor=cursor)
    keys = home.definitions.resolve_asset_graph().materializable_asset_keys
    asked = {(key.to_user_string(), one) for key in keys for one in result.get_requested_partitions(key)}
    return asked, result.cursor


def test_everything_is_made_from_a_batch_to_a_champion(finished: Home) -> None:
    for asset in (
        "image_index",
        "splits",
        "resnet18",
        "evaluation",
        "onnx_model",
        "champion",
        "data_snapshot",
    ):
        assert finished.version(asset), asset
    for asset in PARTITIONED:
        assert finished.version(asset, "first"), asset


def test_the_ui_shows_what_the_run_of_a_command_was_for(finished: Home) -> None:
    targets = {run.asset_selection for run in finished.instance.get_runs()}
    assert {frozenset([dg.AssetKey("image_table"), dg.AssetKey("rejected_images")])} < targets
    assert None not in targets


def test_nothing_is_made_when_nothing_changed(finished: Home) -> None:
    assert finished.update() == []
    assert finished.stale() == []


@pytest.mark.slow
def test_a_dry_run_names_what_is_missing_and_makes_nothing(finished: Home) -> None:
    finished.add("second", "synthetic:100:2")
    planned = staleness.plan(finished.definitions, finished.instance, staleness.selected("*"))
    steps = [str(step) for step, _reasons in planned]
    assert "raw_batch [second]" in steps
    assert "image_table + rejected_images [second]" in steps
    assert "splits" in steps
    assert not [step for step in steps if "[first]" in step]
    assert finished.version("raw_batch", "second") is None


@pytest.mark.slow
def test_a_later_batch_touches_its_own_partition_and_what_depends_on_it(finished: Home) -> None:
    before = {asset: finished.runs_of(asset) for asset in PARTITIONED}
    finished.add("second", "synthetic:150:2")
    outcomes = finished.update()
    assert not [outcome for outcome in outcomes if outcome.error]
    materialized = [str(outcome.step) for outcome in outcomes]
    assert "image_index" in materialized
    assert "resnet18" in materialized
    assert not [step for step in materialized if "[first]" in step]
    assert {asset: finished.runs_of(asset) - count for asset, count in before.items()} == dict.fromkeys(
        PARTITIONED, 1
    )


def test_the_same_content_made_again_leaves_everything_downstream_fresh(finished: Home) -> None:
    before = finished.version("image_table", "first")
    assert finished.materialize("image_table", "rejected_images", partition="first") is None
    assert finished.version("image_table", "first") == before
    assert finished.stale() == []


def test_a_batch_of_known_images_alone_trains_nothing(finished: Home, tmp_path: object) -> None:
    finished.add("again", str(finished.settings.paths.raw / "first.zip"))
    materialized = [str(outcome.step) for outcome in finished.update()]
    assert "image_index" in materialized
    assert "resnet18" not in materialized


def test_a_bad_batch_is_quarantined_and_what_was_good_stays(
    finished: Home, mostly_bad_archive: object
) -> None:
    index, splits = finished.version("image_index"), finished.version("splits")
    finished.add("bad", str(mostly_bad_archive))
    outcomes = {str(outcome.step): outcome for outcome in finished.update()}
    assert outcomes["image_table + rejected_images [bad]"].error
    assert "share_of_rejects" in outcomes["image_table + rejected_images [bad]"].error
    assert finished.version("image_index") == index
    assert finished.version("splits") == splits
    assert finished.update() == []


def test_a_removed_batch_makes_the_index_stale(finished: Home) -> None:
    finished.add("second", "synthetic:60:2")
    finished.update("+key:splits")
    finished.instance.delete_dynamic_partition("batch", "second")
    assert "image_index" in finished.stale()


def test_batches_that_come_and_go_while_an_update_is_under_way_are_left_out(home: Home) -> None:
    for name in ("first", "second", "third"):
        home.add(name, "synthetic:20:1")
    outcomes = []
    for event in execution.update(home.definitions, home.instance, staleness.selected("*image_table")):
        if isinstance(event, execution.Outcome):
            outcomes.append((str(event.step), event.error))
        elif event[0].partition == "second":  # about to start; the third is to follow
            for name in ("second", "third"):
                remove_batch(home.settings.paths, home.instance, name, str)
            home.add("fourth", "synthetic:20:1")
    assert outcomes == [("raw_batch [first]", None), ("image_table + rejected_images [first]", None)]


def test_a_batch_that_is_removed_while_it_is_materialized_is_left_out_without_an_alert(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.add("stays", "synthetic:20:1")
    home.add("goes", "synthetic:20:2")
    build = table.build_image_table

    def removed_meanwhile(*arguments: Any, **named: Any) -> Any:
        if home.instance.has_dynamic_partition("batch", "goes"):
            remove_batch(home.settings.paths, home.instance, "goes", lambda _: None)
        return build(*arguments, **named)

    monkeypatch.setattr(table, "build_image_table", removed_meanwhile)
    outcomes = home.update("+key:image_index")
    assert [(str(one.step), one.error) for one in outcomes if one.error] == []
    assert {one.step.partition for one in outcomes if "image_table" in one.step.assets} == {"stays"}
    assert not home.settings.paths.alerts.exists()


def test_the_automation_asks_for_nothing_when_everything_is_fresh(finished: Home) -> None:
    _asked, cursor = requested(finished)
    asked, _cursor = requested(finished, cursor)
    assert asked == set()


@pytest.mark.slow
def test_the_automation_asks_for_the_new_batch_as_update_would(finished: Home) -> None:
    _asked, cursor = requested(finished)
    finished.add("second", "synthetic:100:2")
    asked, cursor = requested(finished, cursor)
    # One run takes the batch to its tables; what comes after waits for their content.
    assert asked == {(asset, "second") for asset in PARTITIONED}
    assert finished.materialize("raw_batch", partition="second") is None
    assert finished.materialize("image_table", "rejected_images", partition="second") is None
    asked, cursor = requested(finished, cursor)
    assert asked == {("image_index", None), ("data_snapshot", None)}
    assert finished.materialize("image_index") is None
    asked, cursor = requested(finished, cursor)
    assert asked == {("splits", None)}
    assert finished.materialize("splits") is None
    # The report is written once, when all that it shows is there.
    asked, cursor = requested(finished, cursor)
    assert ("data_report", None) in asked
    assert finished.materialize("data_report") is None
    asked, cursor = requested(finished, cursor)
    assert ("data_report", None) not in asked


@pytest.mark.slow
def test_the_automation_asks_for_nothing_after_the_same_content(finished: Home) -> None:
    _asked, cursor = requested(finished)
    finished.materialize("image_table", "rejected_images", partition="first")
    asked, _cursor = requested(finished, cursor)
    assert asked == set()


#: A command that is killed as it stores the first result of a check.
KILLED_AT_THE_FIRST_CHECK = """
import os, signal, sys
import dagster as dg
from captcha_assets.cli import main

handle = dg.DagsterInstance.handle_new_event

def killed(self, event, **more):
    if event.is_dagster_event and event.dagster_event.event_type_value == "ASSET_CHECK_EVALUATION":
        os.kill(os.getpid(), signal.SIGKILL)
    handle(self, event, **more)

dg.DagsterInstance.handle_new_event = killed
sys.argv = ["captcha-assets", *sys.argv[1:]]
main()
"""


def test_checks_whose_results_a_kill_took_are_caught_up(tmp_path: Path) -> None:
    succeeded(tmp_path, "batch", "add", "one", "synthetic:60:1")
    succeeded(tmp_path, "update", "--select", "key:raw_batch or key:image_table or key:rejected_images")
    arguments = ("update", "--select", "key:image_index")
    environment = os.environ | {"CAPTCHA_HOME": str(tmp_path)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_FIRST_CHECK, *arguments], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    said = succeeded(tmp_path, *arguments)
    assert re.search(r"materializing image_index: its last run ended before \w+, .* had a result", said), said
    assert succeeded(tmp_path, *arguments) == "everything is up to date\n"
