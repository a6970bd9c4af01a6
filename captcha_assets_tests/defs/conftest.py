"""A home in which every asset is materialized once, on a small batch with a real training."""

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml
from filelock import FileLock

from captcha_assets import definitions
from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.defs.dagster_internals import open_instance_at
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets_tests import dagster_storage, training_server

dagster_storage.reuse()
training_server.use()

NARROW = {
    "epochs": 3,
    "channels": [8, 16, 32, 64],
    "batch_size": 32,
    "sample_size": None,
    "learning_rate": 0.05,
}
RUN_CONFIG = {"ops": {"resnet18": {"config": NARROW}}}


@dataclass
class Home:
    """An installation of its own: settings, instance, definitions."""

    settings: Settings
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    log: list[str] = field(default_factory=list)

    def add(self, name: str, source: str) -> None:
        """Register a batch and make it known to Dagster."""
        batch_registration.register(self.settings, name, batch_registration.parse_source(source))
        self.instance.add_dynamic_partitions("batch", [name])

    def update(self, selection: str = "*", config: dict | None = None) -> list[execution.Outcome]:
        """Materialize what is stale, and return the outcome of each step."""
        chosen = staleness.selected(selection)
        events = execution.update(
            self.definitions, self.instance, chosen, RUN_CONFIG if config is None else config
        )
        return [event for event in events if isinstance(event, execution.Outcome)]

    def materialize(self, *assets: str, partition: str | None = None) -> str | None:
        """Materialize one step, stale or not, and return why it failed."""
        step = staleness.Step(tuple(assets), partition)
        return execution.materialize(self.definitions, self.instance, step, RUN_CONFIG)[1]

    def stale(self) -> list[str]:
        """The steps that are missing or out of date."""
        everything = staleness.steps_in_order(self.definitions, staleness.selected("*"))
        return [
            str(step)
            for assets in everything
            for step in staleness.stale_steps(self.definitions, self.instance, assets)
        ]

    def version(self, asset: str, partition: str | None = None) -> str | None:
        """The data version of an asset now."""
        versions = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition] if partition else None),
            limit=1,
        )
        materialization = versions.records[0].asset_materialization if versions.records else None
        return (
            materialization.tags["dagster/data_version"] if materialization and materialization.tags else None
        )

    def runs_of(self, asset: str) -> int:
        """How often an asset was materialized, over all partitions."""
        return len(self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records)


def open_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Open the home `folder` in this process."""
    monkeypatch.setenv("CAPTCHA_HOME", str(folder))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings = Settings(paths=Paths(home=folder))
    return Home(settings, open_instance(settings), with_quiet_console(definitions.defs()))


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all workers that share the tests: to be copied, not changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / name
    with FileLock(root / f"{name}.lock"):
        if not folder.exists():
            unfinished = root / f"{name}.part"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _create_databases(folder: Path) -> None:
    folder.mkdir()
    (folder / "dagster.yaml").touch()
    with open_instance_at(folder):
        pass
    (folder / "dagster.yaml").unlink()


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The databases of a Dagster instance in which nothing was recorded."""
    return made_once(tmp_path_factory, "databases", _create_databases)


@pytest.fixture
def home(databases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty home."""
    shutil.copytree(databases, tmp_path / "home" / ".dagster")
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


def _finish(folder: Path) -> None:
    (folder / "configs").mkdir(parents=True)
    # Its production settings: what trained it, so that the model is up to date.
    (folder / "configs" / "training.yaml").write_text(yaml.safe_dump(NARROW))
    with pytest.MonkeyPatch.context() as monkeypatch:
        opened = open_home(folder, monkeypatch)
        with opened.instance:
            opened.add("first", "synthetic:600:1")
            outcomes = opened.update()
            assert not [outcome for outcome in outcomes if outcome.error], outcomes


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home in which one batch was taken through to a champion."""
    return made_once(tmp_path_factory, "finished", _finish)


@pytest.fixture
def finished(finished_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of the finished home, to change at will."""
    shutil.copytree(finished_folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The narrow training as a file."""
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump(RUN_CONFIG))
    return path


@pytest.fixture
def mostly_bad_archive(tmp_path: Path) -> Path:
    """A zip in which three of four members are no images."""
    path = tmp_path / "bad.zip"
    synthetic_batches.write_archive(tmp_path / "good.zip", 20, seed=9)
    with zipfile.ZipFile(tmp_path / "good.zip") as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name))
        for number in range(60):
            bad.writestr(f"Dataset/a_{90000 + number}.png", b"no image")
    return path
