"""What somebody meets who materializes from the UI or with `dg launch`, before there is anything."""

import dagster as dg
import pytest

from captcha_assets_tests.defs.conftest import RUN_CONFIG, Home

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

FIRST = "there is no batch yet: captcha-assets batch add NAME SOURCE"


@pytest.mark.parametrize("asset", ["data_snapshot", "image_index", "splits", "resnet18"])
def test_without_a_batch_an_asset_says_how_to_add_one(home: Home, asset: str) -> None:
    assert home.materialize(asset) == FIRST


def test_before_a_batch_is_materialized_an_asset_names_what_it_needs(home: Home) -> None:
    home.add("tiny", "synthetic:20:1")
    found = {asset: home.materialize(asset) for asset in ("image_index", "splits", "resnet18")}
    assert found == {
        "image_index": "image_table is not materialized yet: captcha-assets update",
        "splits": "image_index is not materialized yet: captcha-assets update",
        "resnet18": "splits is not materialized yet: captcha-assets update",
    }


def test_without_trials_the_leaderboard_is_empty(home: Home) -> None:
    assert home.materialize("sweep_leaderboard") is None


def test_the_job_everything_takes_a_batch_to_a_champion_and_leaves_sweeps_and_served_days_alone(
    home: Home,
) -> None:
    home.add("tiny", "synthetic:300:1")
    job = home.definitions.resolve_job_def("everything")
    result = job.execute_in_process(
        instance=home.instance, run_config=RUN_CONFIG, partition_key="tiny", raise_on_error=False
    )
    assert result.success, [event.message for event in result.all_events if event.is_failure]
    materialized = {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }
    everything = {
        key.to_user_string() for key in home.definitions.resolve_asset_graph().materializable_asset_keys
    }
    served = {"prediction_log", "corrections", "drift_report"}  # partitioned by day
    assert materialized == everything - {"sweep_trial", "sweep_leaderboard", "quantized_model"} - served
    assert home.version("champion")


def test_the_sweeps_are_a_group_of_their_own(home: Home) -> None:
    graph = home.definitions.resolve_asset_graph()
    sweeps = dg.AssetSelection.groups("sweep").resolve(graph)
    assert {key.to_user_string() for key in sweeps} == {"sweep_trial", "sweep_leaderboard"}
