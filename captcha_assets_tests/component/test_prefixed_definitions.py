"""Two data sets in one code location: what each has of the assets, the sensors and the instance."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import xxhash
import yaml

from captcha_assets.component import ImageClassificationScaffolder, ScaffoldParams, settings_of
from captcha_assets.dataset import CAPTCHA, DatasetSpec
from captcha_assets.definitions import build_definitions
from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG, NO_VALUE, open_instance_at
from captcha_assets.defs.names import Names
from captcha_assets.defs.prefixed_assets import PrefixedDataset, prefixed_asset
from captcha_assets.defs.prefixed_definitions import prefixed_definitions
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets_tests.commands import run
from captcha_assets_tests.conftest import REPOSITORY
from captcha_assets_tests.defs import recorded_interface
from captcha_assets_tests.defs.digits import DATASET as DIGITS
from captcha_assets_tests.serving.predictions import prediction

LEFT_OUT = {"sweep"}


def prefixed(prefix: str, home: Path, spec: DatasetSpec = DIGITS) -> dg.Definitions:
    of = PrefixedDataset(Names(prefix), spec, lambda: settings_of(home, None))
    return prefixed_definitions(list(build_definitions(spec).assets or ()), of)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def both(root: Path) -> dg.Definitions:
    """Two data sets, beside what a project has of its own under the names of captcha-assets."""

    @dg.asset
    def champion() -> None: ...

    own = dg.Definitions(assets=[champion], jobs=[dg.define_asset_job("retrain", selection=["champion"])])
    return dg.Definitions.merge(prefixed("one", root / "one"), prefixed("two", root / "two"), own)


def test_each_data_set_has_the_assets_of_a_code_location_of_its_own(both: dg.Definitions) -> None:
    both.get_repository_def().load_all_definitions()
    found, alone = recorded_interface.of(both), recorded_interface.of(build_definitions(DIGITS))
    for prefix in ("one", "two"):
        expected = {
            f"{prefix}/{asset}": {
                **described,
                "group": f"{prefix}_{described['group']}",
                "inputs": sorted(f"{prefix}/{name}" for name in described["inputs"]),
                "partitions": described["partitions"] and f"{prefix}_{described['partitions']}",
                "pools": [f"{prefix}_{pool}" for pool in described["pools"]],
                "owners": [],
            }
            for asset, described in alone.items()
            if described["group"] not in LEFT_OUT
        }
        assert {key: found.pop(key) for key in expected} == expected
    assert list(found) == ["champion"]


def test_the_columns_of_a_table_come_from_tables_of_the_same_data_set(both: dg.Definitions) -> None:
    graph = both.resolve_asset_graph()
    for table in ("image_index", "splits"):
        lineage = graph.get(dg.AssetKey(["two", table])).metadata["dagster/column_lineage"]
        keys = {source.asset_key for deps in lineage.deps_by_column.values() for source in deps}
        assert keys
        assert keys <= graph.get(dg.AssetKey(["two", table])).parent_keys


def test_a_training_is_configured_as_in_a_code_location_of_its_own(both: dg.Definitions) -> None:
    graph = both.resolve_asset_graph()
    (definition,) = graph.assets_defs_for_keys([dg.AssetKey(["one", "resnet18"])])
    config: Any = definition.op.config_schema.config_type
    assert {"epochs", "sample_size"} <= set(config.fields)
    job = both.resolve_job_def("one_retrain")
    wrong = {"ops": {"one_resnet18": {"config": {"epochs": -1}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="epochs=-1 cannot be used"):
        dg.validate_run_config(job, wrong)


def test_sensors_that_act_are_off_until_switched_on(both: dg.Definitions) -> None:
    on = {sensor.name: sensor.default_status.value == "RUNNING" for sensor in both.sensors or ()}
    acting = ("automation", "inbox_sensor", "retraining", "automatic_rollback")
    expected = {f"{prefix}_{name}": False for prefix in ("one", "two") for name in acting}
    assert on == expected | {"one_observed_sources": True, "two_observed_sources": True}


def test_an_asset_that_takes_another_resource_is_an_error() -> None:
    @dg.asset
    def thumbnails(warehouse: dg.ResourceParam[str]) -> None: ...

    of = PrefixedDataset(Names("one"), DIGITS, lambda: settings_of(Path("one"), None))
    with pytest.raises(
        ValueError, match=r"thumbnails takes resources that are not known here: \['warehouse'\]"
    ):
        prefixed_asset(thumbnails, of)


@pytest.mark.parametrize("prefix", ["", "Digits", "my-digits", "1st", "digits\n", 51 * "d"])
def test_a_prefix_that_cannot_name_a_partition_set_is_an_error(prefix: str) -> None:
    with pytest.raises(ValueError, match="cannot be used: begin with a small letter"):
        Names(prefix)


def test_the_environment_does_not_mix_up_the_places_of_two_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOME": str(tmp_path / "other"),
        "ARTIFACTS": "s3://bucket/artifacts",
        "PROFILE": "shared",
        "DATABASE": "postgresql://user@host/database",
        "KAGGLE_DATASET": "owner/other",
        "RETRAIN_NEW_IMAGES": "7",
    }.items():
        monkeypatch.setenv(f"CAPTCHA_{name}", value)
    found = settings_of(tmp_path / "one", None)
    assert (found.paths.home, found.paths.artifacts) == (tmp_path / "one", str(tmp_path / "one/artifacts"))
    assert (found.paths.profile, found.paths.shared_database, found.kaggle_dataset) == ("local", None, None)
    assert found.retrain_new_images == 7  # a policy is the same for all


# --- what the sensors do in one instance


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").touch()
    with open_instance_at(tmp_path / "dagster") as opened:
        yield opened


Tick = Callable[[str], dg.SensorResult]


@pytest.fixture
def tick(tmp_path: Path, instance: dg.DagsterInstance) -> Tick:
    """One tick of a sensor, and what the daemon does with the partitions and observations it returns."""
    made = dg.Definitions.merge(*(prefixed(name, tmp_path / name) for name in ("one", "two")))
    repository = made.get_repository_def()

    def evaluate(sensor: str) -> dg.SensorResult:
        context = dg.build_sensor_context(instance, repository_def=repository)
        answer = repository.get_sensor_def(sensor)(context)
        assert isinstance(answer, dg.SensorResult)
        for request in answer.dynamic_partitions_requests or ():
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for event in answer.asset_events or ():
            instance.report_runless_asset_event(event)
        return answer

    return evaluate


def requested(answer: dg.SensorResult) -> list[str]:
    """Return the batches that the runs are for, which a sensor asks for."""
    return [str(request.partition_key) for request in answer.run_requests or ()]


def drop(home: Path, seed: int) -> None:
    path = settings_of(home, None).paths.home / "inbox" / "first.zip"
    path.parent.mkdir(parents=True)
    synthetic_batches.write_archive(path, 20, seed=seed)
    before = time.time() - 60
    os.utime(path, (before, before))


def test_the_inbox_of_each_data_set_gives_batches_to_it_alone(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    drop(tmp_path / "one", 1)
    assert requested(tick("one_inbox_sensor")) == ["first"]
    assert instance.get_dynamic_partitions("one_batch") == ["first"]
    assert requested(tick("two_inbox_sensor")) == []
    assert instance.get_dynamic_partitions("two_batch") == []


def test_a_run_of_another_data_set_with_a_batch_of_the_same_name_holds_nothing_up(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    for seed, name in enumerate(("one", "two")):
        drop(tmp_path / name, seed)
    job = prefixed("one", tmp_path / "one").resolve_job_def("one_ingest_batch")
    instance.create_run_for_job(job, tags={"dagster/partition": "first"})
    waiting = tick("one_inbox_sensor")
    assert waiting.skip_reason is not None
    assert waiting.skip_reason.skip_message == "first.zip: a run for first is under way"
    assert requested(tick("two_inbox_sensor")) == ["first"]


def settings(home: Path) -> Settings:
    return settings_of(home, None)


def test_a_registered_batch_gets_its_partition_and_a_removed_one_is_reported(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    found = settings(tmp_path / "one")
    batch_registration.register(found, "october", batch_registration.parse_source("synthetic:20:1"))
    observed = tick("one_observed_sources").asset_events or ()
    assert dg.AssetKey(["one", "batch_catalog"]) in [event.asset_key for event in observed]
    assert instance.get_dynamic_partitions("one_batch") == ["october"]
    tick("two_observed_sources")
    assert instance.get_dynamic_partitions("two_batch") == []

    job = prefixed("one", tmp_path / "one").resolve_job_def("one_ingest_batch")
    key = dg.AssetKey(["one", "raw_batch"])
    assert job.execute_in_process(instance=instance, partition_key="october", asset_selection=[key]).success
    batch_registration.remove(found.paths, "october")
    tick("one_observed_sources")
    assert instance.get_dynamic_partitions("one_batch") == []
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    assert (event.asset_materialization.tags or {})[DATA_VERSION_TAG] == NO_VALUE


def test_a_lost_archive_is_missing_in_its_own_data_set(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    keys = [dg.AssetKey([name, "raw_batch"]) for name in ("one", "two")]
    for name, key in zip(("one", "two"), keys, strict=True):
        source = batch_registration.parse_source("synthetic:20:1")
        batch_registration.register(settings(tmp_path / name), "october", source)
        tick(f"{name}_observed_sources")
        job = prefixed(name, tmp_path / name).resolve_job_def(f"{name}_ingest_batch")
        assert job.execute_in_process(
            instance=instance, partition_key="october", asset_selection=[key]
        ).success
    (settings(tmp_path / "one").paths.raw / "october.zip").unlink()
    for name in ("one", "two"):
        tick(f"{name}_observed_sources")
    events = [instance.get_latest_materialization_event(key) for key in keys]
    versions = [
        (event.asset_materialization.tags or {})[DATA_VERSION_TAG]
        for event in events
        if event and event.asset_materialization
    ]
    assert versions[0] == NO_VALUE
    assert len(versions[1]) == 64


def test_a_home_that_is_not_mounted_has_lost_no_batch(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    source = batch_registration.parse_source("synthetic:20:1")
    batch_registration.register(settings(tmp_path / "one"), "october", source)
    tick("one_observed_sources")
    (tmp_path / "one").rename(tmp_path / "unmounted")
    tick("one_observed_sources")
    assert instance.get_dynamic_partitions("one_batch") == ["october"]


@pytest.mark.slow
def test_corrections_of_a_service_become_a_batch_of_its_own_data_set(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTCHA_CORRECTIONS_IN_BATCH", "1")
    day, home = "2026-11-28", tmp_path / "one"
    synthetic_batches.write_archive(tmp_path / "served.zip", 10, seed=77)
    with (
        zipfile.ZipFile(tmp_path / "served.zip") as archive,
        open_prediction_log(f"sqlite:///{home}/.serving/predictions.db") as log,
    ):
        for number, member in enumerate(sorted(archive.namelist())):
            image = archive.read(member)
            hashed = xxhash.xxh3_128_hexdigest(image)
            assert log.record(prediction(number, image=image, image_hash=hashed, statistics={}))
        assert log.flush()
        log.correct("id-0", "a", "ann")
    for name in ("one", "two"):
        tick(f"{name}_observed_sources")
    assert instance.get_dynamic_partitions("one_day") == [day]
    made = prefixed("one", home, CAPTCHA)
    keys = [dg.AssetKey(["one", asset]) for asset in ("prediction_log", "corrections")]
    job = made.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(keys))
    assert job.execute_in_process(instance=instance, partition_key=day).success
    assert instance.get_dynamic_partitions("one_batch") == [f"corrections-{day}"]
    for partition_set in ("two_day", "two_batch", "day", "batch"):
        assert instance.get_dynamic_partitions(partition_set) == []


def test_a_log_that_is_named_for_the_whole_process_gives_no_data_set_days(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"sqlite:///{tmp_path}/predictions.db"
    with open_prediction_log(address) as log:
        assert log.record(prediction(0))
        assert log.flush()
    monkeypatch.setenv("CAPTCHA_SERVING_PREDICTION_LOG", address)
    tick("one_observed_sources")
    assert instance.get_dynamic_partitions("one_day") == []


def test_a_command_that_knows_no_prefix_leaves_the_instance_of_the_project_alone(
    tmp_path: Path, instance: dg.DagsterInstance, tick: Tick
) -> None:
    home = tmp_path / "one"
    batch_registration.register(settings(home), "october", batch_registration.parse_source("synthetic:20:1"))
    tick("one_observed_sources")
    done = run(home, "status", DAGSTER_HOME=str(tmp_path / "dagster"))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "the home of the component one" in done.stderr
    assert instance.get_dynamic_partitions("batch") == []
    assert run(home, "batch", "remove", "october").returncode == 0
    tick("one_observed_sources")
    assert instance.get_dynamic_partitions("one_batch") == []


def test_automation_asks_for_the_batches_of_its_own_data_set(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    made = dg.Definitions.merge(*(prefixed(name, tmp_path / name) for name in ("one", "two")))
    instance.add_dynamic_partitions("one_batch", ["october"])
    answer = dg.evaluate_automation_conditions(defs=made, instance=instance)
    assert answer.get_requested_partitions(dg.AssetKey(["one", "raw_batch"])) == {"october"}
    assert answer.get_requested_partitions(dg.AssetKey(["two", "raw_batch"])) == set()


# --- what `dg` meets


@pytest.mark.parametrize(
    ("folder", "prefix"), [("digits", "digits"), ("My-Photos", "my_photos"), ("2026", "dataset_2026")]
)
def test_the_name_of_the_folder_becomes_a_prefix(tmp_path: Path, folder: str, prefix: str) -> None:
    target = tmp_path / folder
    target.mkdir()
    request = dg.ScaffoldRequest(
        type_name="captcha_assets.ImageClassification",
        target_path=target,
        scaffold_format="yaml",
        project_root=tmp_path,
        params=ScaffoldParams(),
    )
    ImageClassificationScaffolder().scaffold(request)
    written = yaml.safe_load((target / "defs.yaml").read_text())["attributes"]
    assert written == {
        "dataset": "captcha_assets.dataset:CAPTCHA",
        "home": f"homes/{prefix}",
        "prefix": prefix,
    }


def test_the_package_gives_the_component_and_imports_no_dagster_before(tmp_path: Path) -> None:
    script = (
        "import json, sys, captcha_assets\n"
        "before = 'dagster' in sys.modules\n"
        "component = captcha_assets.ImageClassification.__name__\n"
        "print(json.dumps([before, component, hasattr(captcha_assets, 'no')]))"
    )
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=variables, capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [False, "ImageClassification", False]
