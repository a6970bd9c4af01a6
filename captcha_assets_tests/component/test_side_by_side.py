"""`captcha_assets.ImageClassification` in a project that somebody has already: two data sets side by side."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest
import yaml

from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.component import settings_of
from captcha_assets.definitions import build_definitions
from captcha_assets.defs.dagster_internals import StaleStatus, open_instance_at, stale_status_resolver
from captcha_assets.models import registry
from captcha_assets_tests.component.projects import ARCHIVES, PAGE, dg_said, project, variables
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.defs.digits import DATASET as DIGITS
from captcha_assets_tests.defs.test_other_datasets import PHOTOS
from captcha_assets_tests.defs.test_ui import ask, free_port
from captcha_assets_tests.documentation.pages import blocks
from captcha_assets_tests.documentation.shell import run
from captcha_assets_tests.template.projects import BIN, environment

#: Processes of their own, and trainings: CI runs them, `make test-all` here.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("component")]

#: What the page shows: how the component is scaffolded, a batch is added, and taken to a champion.
SCAFFOLDED, ADDED, LAUNCHED = blocks(PAGE, "console")
DEFS_YAML, _ = blocks(PAGE, "yaml")

SPECS = {"digits": DIGITS, "photos": PHOTOS}
SMALL = {
    "channels": [8, 16, 16, 32], "batch_size": 32, "sample_size": None, "learning_rate": 0.05, "epochs": 1
}  # fmt: skip
TABLES = ("raw_batch", "image_table", "rejected_images", "image_index", "splits")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project into which `dg scaffold` has brought both data sets."""
    made = project(tmp_path_factory.mktemp("component") / "my-project")
    (scaffold,) = re.findall(r"^dg (scaffold .*digits.*)", SCAFFOLDED, re.MULTILINE)
    for name in SPECS:
        dg_said(made, *scaffold.replace("digits", name).replace("DIGITS", name.upper()).split())
    return made


def test_dg_scaffolds_a_file_of_a_dozen_lines_and_knows_the_component(folder: Path) -> None:
    text = (folder / "src/my_project/defs/digits/defs.yaml").read_text()
    assert len(text.splitlines()) <= 12
    assert text == DEFS_YAML
    assert yaml.safe_load(text) == {
        "type": "captcha_assets.ImageClassification",
        "attributes": {
            "dataset": "my_project.datasets:DIGITS",
            "home": "homes/digits",
            "prefix": "digits",
        },
    }
    assert "captcha_assets.ImageClassification" in dg_said(folder, "list", "components")
    assert "All definitions loaded successfully." in dg_said(folder, "check", "defs")
    listed = json.loads(dg_said(folder, "list", "defs", "--json"))
    keys = {one["asset_key"] for one in listed["assets"]}
    assert {"digits/champion", "photos/champion", "champion"} <= keys
    assert {key for key in keys if "/" not in key} == {"champion"}
    jobs = {one["name"] for one in listed["jobs"]}
    assert jobs == {f"{name}_{job}" for name in SPECS for job in ("everything", "ingest_batch", "retrain")}


@pytest.mark.parametrize(
    ("written", "instead", "words"),
    [
        ("prefix: photos", "prefix: My-Photos", "defs.yaml:9"),
        ("datasets:PHOTOS", "datasets:CATS", "dataset='my_project.datasets:CATS' cannot be used: "),
        (
            "homes/photos",
            "homes/digits",
            "one home holds one data set and lies in no other, name another folder",
        ),
    ],
)
def test_dg_check_defs_says_which_attribute_cannot_be_used(
    folder: Path, tmp_path: Path, written: str, instead: str, words: str
) -> None:
    copy = tmp_path / "my-project"
    shutil.copytree(folder / "src", copy / "src")
    shutil.copy(folder / "pyproject.toml", copy)
    file = copy / "src/my_project/defs/photos/defs.yaml"
    file.write_text(file.read_text().replace(written, instead))
    command = [str(BIN / "dg"), "check", "defs"]
    done = subprocess.run(
        command, cwd=copy, env=environment(**variables(copy)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert words in done.stdout + done.stderr


@contextmanager
def dg_dev(folder: Path) -> Iterator[str]:
    """Run `dg dev` in a project, daemon and all; the address of the UI."""
    port, log = free_port(), folder / "dev.log"
    command = [str(BIN / "dg"), "dev", "--port", str(port)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env=environment(**variables(folder)), stdout=output, stderr=output
        ) as process,
    ):
        try:
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    httpx.get(f"http://localhost:{port}/server_info", timeout=60)
                    break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield f"http://localhost:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=120)


def start_sensor(address: str, name: str) -> None:
    location = ask(address, "{ workspaceOrError { ... on Workspace { locationEntries { name } } } }")
    (entry,) = location["workspaceOrError"]["locationEntries"]
    selector = f"""{{repositoryLocationName: "{entry["name"]}", repositoryName: "__repository__",
        sensorName: "{name}"}}"""
    started = ask(address, f"mutation {{ startSensor(sensorSelector: {selector}) {{ __typename }} }}")
    assert started["startSensor"]["__typename"] == "Sensor"


def wait_for_runs(address: str, jobs: set[str]) -> None:
    """Wait until a run of each of these jobs has succeeded."""
    query = "{ runsOrError { ... on Runs { results { jobName status } } } }"
    while True:
        runs = ask(address, query)["runsOrError"]["results"]
        assert not [run for run in runs if run["status"] in {"FAILURE", "CANCELED"}], runs
        if {run["jobName"] for run in runs if run["status"] == "SUCCESS"} >= jobs:
            return
        time.sleep(2)


def version(instance: dg.DagsterInstance, key: list[str], partition: str | None = None) -> str:
    wanted = dg.AssetRecordsFilter(dg.AssetKey(key), asset_partitions=[partition] if partition else None)
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization
    return (record.asset_materialization.tags or {})["dagster/data_version"]


def versions(instance: dg.DagsterInstance, prefix: list[str]) -> dict[str, str]:
    by_batch = {"raw_batch", "image_table", "rejected_images"}
    return {
        asset: version(instance, [*prefix, asset], "first" if asset in by_batch else None) for asset in TABLES
    }


def alone(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Materialize the archive of a data set in a home on its own, and return the versions of the tables."""
    monkeypatch.setenv("CAPTCHA_HOME", str(folder / name))
    settings = settings_of(folder / name, None)
    with open_instance(settings) as instance:
        home = Home(settings, instance, with_quiet_console(build_definitions(SPECS[name])))
        home.add("first", str(folder / f"{name}.zip"))
        assert [outcome for outcome in home.update("*splits", {}) if outcome.error] == []
        return versions(instance, [])


def test_two_data_sets_become_champions_in_one_instance_and_neither_sees_the_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SPECS:
        for part in ("inbox", "configs"):
            (folder / "homes" / name / part).mkdir(parents=True)
        (folder / "homes" / name / "configs" / "training.yaml").write_text(yaml.safe_dump(SMALL))
        archive = ARCHIVES[name](tmp_path / f"{name}.zip")
        shutil.copy(archive, folder / "homes" / name / "inbox" / "first.zip")  # the same name for both
    with dg_dev(folder) as address:
        for name in SPECS:
            start_sensor(address, f"{name}_inbox_sensor")
        wait_for_runs(address, {f"{name}_ingest_batch" for name in SPECS})
    for name in SPECS:
        dg_said(folder, "launch", "--job", f"{name}_retrain")
        dg_said(folder, "launch", "--assets", f"{name}/data_report")

    with open_instance_at(folder / ".dagster") as instance:
        for name in SPECS:
            assert instance.get_dynamic_partitions(f"{name}_batch") == ["first"]
            assert versions(instance, [name]) == alone(tmp_path, name, monkeypatch)
            paths = settings_of(folder / "homes" / name, None).paths
            champion = registry.champion(paths.models)
            assert champion is not None
            assert version(instance, [name, "champion"]) == champion.model_id
            assert (paths.evaluation(champion.model_id) / "report.html").exists()
        assert stale(folder, instance) == {}
        assert instance.get_dynamic_partitions("batch") == []


def stale(folder: Path, instance: dg.DagsterInstance) -> dict[str, str]:
    """Return what the UI calls stale or missing, but for the asset that is materialized by name only."""
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(folder / "src"))
        from my_project.definitions import defs

        graph = defs().resolve_asset_graph()
        resolver = stale_status_resolver(instance, graph)
        found = {}
        for key in graph.materializable_asset_keys - {dg.AssetKey("champion")}:
            partitions = graph.get(key).partitions_def
            for partition in instance.get_dynamic_partitions(partitions.name) if partitions else [None]:
                status = resolver.get_status(key, partition)
                if status != StaleStatus.FRESH and key.path[-1] != "quantized_model":
                    found[f"{key.to_user_string()} {partition}"] = str(status)
        return found


def test_a_batch_is_added_by_a_command_and_launched_as_on_the_page(folder: Path, tmp_path: Path) -> None:
    ARCHIVES["digits"](tmp_path / "october.zip")
    configs = folder / "homes" / "digits" / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "training.yaml").write_text(yaml.safe_dump(SMALL))
    environment_of = variables(folder) | {"HOME": str(tmp_path)}
    added = run(ADDED, folder, **environment_of)
    assert added.returncode == 0, added.stdout
    with dg_dev(folder):
        for _ in range(120):  # within a minute, says the page, of a machine that is not as busy
            with open_instance_at(folder / ".dagster") as instance:
                if "october" in instance.get_dynamic_partitions("digits_batch"):
                    break
            time.sleep(1)
        else:
            pytest.fail("the batch has got no partition")
    launched = run(LAUNCHED, folder, **environment_of)
    assert launched.returncode == 0, launched.stdout
    with open_instance_at(folder / ".dagster") as instance:
        assert version(instance, ["digits", "image_table"], "october")
        assert {run.job_name for run in instance.get_runs(limit=1)} == {"digits_everything"}
