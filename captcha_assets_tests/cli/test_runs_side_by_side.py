"""Two runs that materialize the same batch at once, and a run for which the disk has no room."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets_tests.defs.conftest import NARROW, Home

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

#: A run in a process of its own, as two users would start it.
RUN = """
import sys
from captcha_assets.definitions import defs
from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.settings import load_settings
step = staleness.Step(("image_table", "rejected_images"), "first")
with open_instance(load_settings()) as instance:
    sys.exit(execution.materialize(with_quiet_console(defs()), instance, step)[1])
"""

#: A training in a process of its own, which begins when the other one is as far.
TRAIN = """
import json, pathlib, sys, time
from captcha_assets.definitions import defs
from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.settings import load_settings
me, config = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
definitions = with_quiet_console(defs())
definitions.resolve_implicit_global_asset_job_def()
with open_instance(load_settings()) as instance:
    me.touch()
    while len(list(me.parent.glob("*.ready"))) < 2:
        time.sleep(0.05)
    sys.exit(execution.materialize(definitions, instance, staleness.Step(("resnet18",)), config)[1])
"""


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_two_runs_of_one_batch_at_once_end_as_one_would(home: Home) -> None:
    home.add("first", "synthetic:300:1")
    assert home.materialize("raw_batch", partition="first") is None
    assert home.materialize("image_table", "rejected_images", partition="first") is None
    root = Path(str(home.settings.paths.artifact_root))
    version = home.version("image_table", "first")
    alone = {name: (root / name).read_bytes() for name in files(root)}
    for name in alone:
        if not name.startswith("deliveries"):
            (root / name).unlink()
    command = [sys.executable, "-c", RUN]
    environment = {**os.environ, "CAPTCHA_HOME": str(home.settings.paths.home)}
    started = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert {name: (root / name).read_bytes() for name in files(root)} == alone
    assert home.version("image_table", "first") == version
    assert home.runs_of("image_table") == 3


def test_two_runs_of_one_training_at_once_train_once(finished: Home, tmp_path: Path) -> None:
    before = finished.version("resnet18")
    config = json.dumps({"ops": {"resnet18": {"config": {**NARROW, "epochs": 2}}}})
    environment = {**os.environ, "CAPTCHA_HOME": str(finished.settings.paths.home)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(tmp_path / f"{name}.ready"), config],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    said = [entry.message for run in finished.instance.get_runs(limit=2) for entry in logged(finished, run)]
    assert sum("epoch 1/2" in message for message in said) == 1
    assert sum("is the model of this very training" in message for message in said) == 1
    records = finished.instance.fetch_materializations(dg.AssetKey("resnet18"), limit=2).records
    versions = {
        (event.tags or {})["dagster/data_version"]
        for record in records
        if (event := record.asset_materialization)
    }
    assert len(versions) == 1
    assert versions != {before}


def logged(home: Home, run: dg.DagsterRun) -> list[dg.EventLogEntry]:
    return list(home.instance.all_logs(run.run_id))


def test_a_full_disk_is_one_clear_line_and_what_was_there_stays(
    home: Home, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTCHA_ARTIFACTS", str(small_disk))
    small = Settings(paths=Paths(home=home.settings.paths.home, artifacts=str(small_disk)))
    opened = Home(small, home.instance, home.definitions)
    opened.add("small", "synthetic:30:1")
    assert opened.materialize("raw_batch", partition="small") is None
    assert opened.materialize("image_table", "rejected_images", partition="small") is None
    before = {name: (small_disk / name).read_bytes() for name in files(small_disk)}
    opened.add("large", "synthetic:600:2")
    assert opened.materialize("raw_batch", partition="large") is None
    error = opened.materialize("image_table", "rejected_images", partition="large")
    assert error is not None
    assert "no space left on the disk or in the quota: free some and run it again" in error
    assert "large.parquet" in error
    assert "\n" not in error
    left = {name: (small_disk / name).read_bytes() for name in files(small_disk)}
    del left["deliveries/large.json"]
    assert left == before
