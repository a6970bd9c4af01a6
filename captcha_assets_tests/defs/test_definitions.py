"""What the code location holds, as a user of the UI meets it."""

import json

import dagster as dg
import pytest

from captcha_assets.definitions import defs
from captcha_assets_tests.defs import recorded_interface

SWITCHED = {"automation", "inbox_sensor", "retraining", "automatic_rollback"}
ALWAYS_ON = {"observed_sources", "alert_on_failure", "alert_on_success", "automation_history"}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_every_asset_is_as_recorded(definitions: dg.Definitions) -> None:
    recorded = json.loads(recorded_interface.FILE.read_text())
    said = "a change of the interface; if it is meant: python -m captcha_assets_tests.defs.recorded_interface"
    assert recorded_interface.of(definitions) == recorded, said


def test_the_code_location_loads_whole_as_the_ui_and_the_daemon_load_it(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    repository.load_all_definitions()
    names = [job.name for job in definitions.jobs or ()]
    assert sorted(names) == ["everything", "ingest_batch", "retrain"]


def test_every_asset_says_what_it_is(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.group_name in {"source", "images", "dataset", "model", "serving", "sweep"}, key
        assert node.kinds, key
        assert node.owners, key
        assert node.code_version or not node.is_materializable, key


def test_sensors_that_act_are_off_until_switched_on(definitions: dg.Definitions) -> None:
    sensors = {sensor.name: sensor for sensor in definitions.sensors or ()}
    assert set(sensors) == {*SWITCHED, *ALWAYS_ON}
    on = {sensor.name for sensor in sensors.values() if sensor.default_status.value != "STOPPED"}
    assert on == ALWAYS_ON


def test_one_training_at_a_time(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey("resnet18")).pools == {"training"}
