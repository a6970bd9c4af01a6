"""What is used of Dagster's private modules does what it is used for: an upgrade is noticed."""

import warnings
from pathlib import Path

import dagster as dg

from captcha_assets.defs.dagster_internals import (
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NO_VALUE,
    StaleStatus,
    body_of,
    input_version_tag,
    last_ended,
    observed_version,
    open_instance_at,
    remote_repository,
    stale_status_resolver,
)
from captcha_assets.defs.sensor_states import SENSORS
from captcha_assets.paths import REPOSITORY

with warnings.catch_warnings(action="ignore", category=dg.BetaWarning):

    @dg.observable_source_asset
    def source() -> dg.DataVersion:
        return dg.DataVersion("one")


@dg.asset(deps=[source])
def table() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("made"))


@dg.asset_check(asset=table)
def filled() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False)


DEFINITIONS = dg.Definitions(assets=[source, table], asset_checks=[filled])
TABLE = dg.AssetKey("table")


def status(instance: dg.DagsterInstance) -> StaleStatus:
    return stale_status_resolver(instance, DEFINITIONS.resolve_asset_graph()).get_status(TABLE)


def observed(instance: dg.DagsterInstance, version: str) -> None:
    instance.report_runless_asset_event(dg.AssetObservation("source", tags={DATA_VERSION_TAG: version}))


def test_staleness_and_versions_are_read_as_the_ui_reads_them() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert status(instance) == StaleStatus.MISSING
        assert observed_version(instance, "source") is None
        observed(instance, "one")
        job = DEFINITIONS.resolve_implicit_global_asset_job_def()
        assert job.get_subset(asset_selection={TABLE}).execute_in_process(instance=instance).success
        assert status(instance) == StaleStatus.FRESH
        observed(instance, "two")
        assert observed_version(instance, "source") == dg.DataVersion("two")
        assert status(instance) == StaleStatus.STALE


def test_the_function_of_an_asset_is_the_one_that_was_decorated() -> None:
    assert body_of(table)().data_version == dg.DataVersion("made")


def test_a_materialization_without_a_value_is_missing() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(TABLE, tags={DATA_VERSION_TAG: NO_VALUE}))
        assert status(instance) == StaleStatus.MISSING


def test_a_materialization_says_which_version_of_an_input_it_has_read() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        DEFINITIONS.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        event = instance.get_latest_materialization_event(TABLE)
        assert event is not None
        assert event.asset_materialization is not None
        tags = event.asset_materialization.tags or {}
        assert (tags[DATA_VERSION_TAG], tags[input_version_tag("source")]) == ("made", "one")


def test_a_source_may_be_observed_without_a_version_of_its_own() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        observed(instance, DEFAULT_DATA_VERSION.value)
        assert observed_version(instance, "source") == DEFAULT_DATA_VERSION


def test_the_last_check_that_ended_is_found() -> None:
    check = dg.AssetCheckKey(TABLE, "filled")
    with dg.DagsterInstance.ephemeral() as instance:
        assert last_ended(instance, check) is None
        DEFINITIONS.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        found = last_ended(instance, check)
        assert found is not None
        assert found.evaluation is not None
        assert not found.evaluation.passed


def test_an_instance_of_a_command_does_not_capture_output(tmp_path: Path) -> None:
    with open_instance_at(tmp_path) as instance:
        assert type(instance.compute_log_manager).__name__ == "NoOpComputeLogManager"


def test_the_sensors_are_found_as_the_ui_has_them(tmp_path: Path) -> None:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
        remote_repository(instance, REPOSITORY / "workspace.yaml") as repository,
    ):
        assert {repository.get_sensor(name).name for name in SENSORS} == set(SENSORS)
