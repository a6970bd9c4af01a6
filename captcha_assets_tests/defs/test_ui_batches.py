"""What the UI says of batches, over its own HTTP interface: checks, a quarantined batch, a removed one."""

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context

from captcha_assets.defs import partitions
from captcha_assets.defs.automation_history import ASSETS, automation_history
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home, open_home
from captcha_assets_tests.defs.test_ui import answered, ask, webserver

#: What the tests of this module share is materialized once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ui_batches")]


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str]]:
    """A home with a good batch and a quarantined one, and the address of its UI."""
    work = tmp_path_factory.mktemp("batches")
    synthetic_batches.write_archive(work / "bad.zip", 10, seed=9)
    with zipfile.ZipFile(work / "bad.zip", "a") as archive:
        for number in range(40):
            archive.writestr(f"a_{90000 + number}.png", b"no image")
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = open_home(work / "home", monkeypatch)
        home.add("good", "synthetic:40:1")
        home.add("bad", str(work / "bad.zip"))
        home.update("+key:image_table or key:rejected_images")
        with home.instance, webserver(work / "home") as address:
            yield home, address


def test_a_quarantined_batch_is_red_and_the_others_are_green(batches: tuple[Home, str]) -> None:
    _, address = batches
    statuses = "... on DefaultPartitionStatuses { materializedPartitions failedPartitions }"
    (node,) = ask(
        address,
        '{ assetNodes(assetKeys: [{path: ["image_table"]}]) '
        f"{{ assetPartitionStatuses {{ {statuses} }} staleStatusByPartition }} }}",
    )["assetNodes"]
    assert node["assetPartitionStatuses"] == {"materializedPartitions": ["good"], "failedPartitions": ["bad"]}
    assert node["staleStatusByPartition"] == ["FRESH", "FRESH"]


def test_a_quarantined_batch_is_not_materialized_again_for_nothing(batches: tuple[Home, str]) -> None:
    home, _ = batches
    before = home.runs_of("image_table")
    assert home.update("+key:image_table or key:rejected_images") == []
    assert home.runs_of("image_table") == before


def test_a_check_names_the_batch_that_it_checked(batches: tuple[Home, str]) -> None:
    _, address = batches
    query = (
        '{ assetCheckExecutions(assetKey: {path: ["image_table"]}, checkName: "share_of_rejects", limit: 10)'
        " { status evaluation { success partition } } }"
    )
    found = ask(address, query)["assetCheckExecutions"]
    assert {one["evaluation"]["partition"]: one["evaluation"]["success"] for one in found} == {
        "good": True,
        "bad": False,
    }


EVALUATIONS = """{ assetConditionEvaluationRecordsOrError(assetKey: {path: ["NAME"]}, limit: 50) {
    ... on AssetConditionEvaluationRecords {
        records { numRequested evaluationNodes { numTrue numCandidates } } } } }"""


def evaluate(home: Home, *new: str) -> None:
    """Evaluate the automation when batches are new, and keep the evaluations, as the daemon does."""
    first = dg.evaluate_automation_conditions(home.definitions, home.instance)
    for name in new:
        home.add(name, "synthetic:10:1")
    second = dg.evaluate_automation_conditions(home.definitions, home.instance, cursor=first.cursor)
    assert second.total_requested >= 3 * len(new)
    storage = home.instance.schedule_storage
    assert storage
    with partition_loading_context(datetime.now(UTC), home.instance):
        storage.add_auto_materialize_asset_evaluations(
            1, [one.serializable_evaluation.with_run_ids(set()) for one in second.results]
        )


def unreadable(address: str) -> set[str]:
    """The assets whose Automation tab shows an error."""
    return {name for name in ASSETS if "errors" in answered(address, EVALUATIONS.replace("NAME", name))}


def test_the_automation_tab_is_readable_after_a_batch_was_removed(batches: tuple[Home, str]) -> None:
    home, address = batches
    evaluate(home, "third", "fourth")
    assert unreadable(address) == set()
    succeeded(home.settings.paths.home, "batch", "remove", "third")
    assert unreadable(address) == set()


def test_the_automation_tab_recovers_where_a_partition_was_deleted_in_the_ui(
    batches: tuple[Home, str],
) -> None:
    home, address = batches
    evaluate(home, "fifth", "sixth")
    home.instance.delete_dynamic_partition("batch", "fifth")
    assert unreadable(address) >= {"raw_batch", "image_table", "rejected_images"}, (
        "Dagster's own fault is mended"
    )
    context = dg.build_sensor_context(home.instance)
    automation_history(context)
    assert unreadable(address) == set()
    assert "fifth" not in str(context.cursor)


def test_the_assets_whose_evaluations_name_batches_are_known(batches: tuple[Home, str]) -> None:
    graph = batches[0].definitions.resolve_asset_graph()
    keyed = {
        key for key in graph.materializable_asset_keys if graph.get(key).partitions_def == partitions.batches
    }
    children = {child for key in keyed for child in graph.get(key).child_keys}
    assert {key.to_user_string() for key in keyed | children} == set(ASSETS)
