"""A training starts automatically, with the reason in a tag of its run, and once for each situation."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest
from dagster._core.events import RunFailureReason
from dagster._core.execution.retries import auto_reexecution_should_retry_run

from captcha_assets.atomic_files import remove
from captcha_assets.cli.orchestration import sensor_switches
from captcha_assets.defs.model.retraining_sensor import WHY_TAG, retraining_sensor
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.models import registry
from captcha_assets.models.manifest import writing_folder
from captcha_assets.quality import validation_result
from captcha_assets.serving.prediction_log import open_prediction_log
from captcha_assets.settings import Settings
from captcha_assets.sources import synthetic_batches
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home, made_once, open_home
from captcha_assets_tests.quality.stored_results import stored, validated
from captcha_assets_tests.serving.predictions import prediction

DATA = "+key:splits"


class Ticks:
    """The sensor as the daemon ticks it: the cursor is kept from tick to tick."""

    def __init__(self, home: Home, **settings: float) -> None:
        self.home, self.cursor = home, None
        self.settings = Settings(paths=home.settings.paths, **settings)

    def tick(self) -> list[dg.RunRequest]:
        resources = {"settings": self.settings}
        with dg.build_sensor_context(self.home.instance, self.cursor, resources=resources) as context:
            answer = retraining_sensor(context)
        self.said = answer.skip_message if isinstance(answer, dg.SkipReason) else ""
        if isinstance(answer, dg.SkipReason):
            return []
        self.cursor = answer.cursor
        return list(answer.run_requests or ())

    def triggers(self) -> list[str]:
        return [request.tags["captcha_assets/trigger"] for request in self.tick()]


def bring(home: Home, name: str, source: str) -> None:
    home.add(name, source)
    assert not [outcome for outcome in home.update(DATA) if outcome.error]


def darkened(path: Path, count: int) -> Path:
    """An archive of generated characters under less light."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (label, image) in enumerate(synthetic_batches.generate(count, 7)):
            dark = cv2.imencode(".png", (image * 0.75).astype(np.uint8))[1].tobytes()
            archive.writestr(f"Dataset/{label}_{number}.png", dark)
    return path


@pytest.fixture(scope="session")
def grown_folder(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished home to which a second batch came after the training."""

    def grow(folder: Path) -> None:
        shutil.copytree(finished_folder, folder, symlinks=True)
        with pytest.MonkeyPatch.context() as monkeypatch:
            opened = open_home(folder, monkeypatch)
            with opened.instance:
                bring(opened, "second", "synthetic:120:2")

    return made_once(tmp_path_factory, "grown", grow)


@pytest.fixture
def grown(grown_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A copy of the grown home, to change at will."""
    shutil.copytree(grown_folder, tmp_path / "home", symlinks=True)
    opened = open_home(tmp_path / "home", monkeypatch)
    with opened.instance:
        yield opened


def test_nothing_is_trained_before_there_are_splits(home: Home) -> None:
    ticks = Ticks(home)
    assert ticks.tick() == []
    assert ticks.said == "no training: there are no splits yet"


@pytest.mark.slow
def test_splits_that_are_lost_are_named_with_what_restores_them(home: Home) -> None:
    bring(home, "first", "synthetic:60:1")
    remove(home.settings.paths.splits)
    ticks = Ticks(home)
    assert ticks.tick() == []
    lost = f"the splits are lost ({home.settings.paths.splits} is missing): captcha-assets update"
    assert ticks.said.startswith(f"no training: {lost}")


def test_the_first_training_starts_when_there_is_something_to_train_on(home: Home) -> None:
    bring(home, "first", "synthetic:60:1")
    ticks = Ticks(home)
    (request,) = ticks.tick()
    assert request.tags[WHY_TAG] == "the first training: there was no model"
    assert ticks.tick() == []


def test_nothing_new_starts_nothing_and_the_tick_says_where_things_stand(finished: Home) -> None:
    ticks = Ticks(finished)
    assert ticks.tick() == []
    assert ticks.said.startswith("0 new training images since resnet18-")
    assert finished.materialize("image_table", "rejected_images", partition="first") is None
    assert finished.materialize("image_index") is None
    assert finished.materialize("splits") is None
    assert ticks.tick() == []


def test_enough_new_images_start_one_training_that_says_why(grown: Home) -> None:
    assert Ticks(grown, retrain_new_images=500).tick() == []
    assert Ticks(grown, retrain_new_images=50, retrain_new_share=0.5).tick() == []
    ticks = Ticks(grown, retrain_new_images=50)
    (request,) = ticks.tick()
    assert request.tags["captcha_assets/trigger"] == "new images"
    assert "new training images since resnet18-" in request.tags[WHY_TAG]
    assert ticks.tick() == [], "the same situation requests one run"


def test_two_ticks_that_race_ask_for_the_same_run(grown: Home) -> None:
    (one,) = Ticks(grown, retrain_new_images=50).tick()
    (other,) = Ticks(grown, retrain_new_images=50).tick()
    assert one.run_key == other.run_key, "Dagster starts one run for one key"


@pytest.mark.slow
def test_a_failed_training_is_tried_again_by_its_run_and_then_there_is_silence(grown: Home) -> None:
    ticks = Ticks(grown, retrain_new_images=50)
    (request,) = ticks.tick()
    assert request.tags["dagster/max_retries"] == "2"
    assert grown.materialize("splits") is None
    assert ticks.tick() == []
    bring(grown, "third", "synthetic:120:3")
    assert ticks.triggers() == ["new images"], "more of it is a reason again"


def test_nothing_is_trained_while_a_blocking_check_fails(grown: Home) -> None:
    folder = grown.settings.paths.validation_results("splits")
    sound = validation_result.load(folder)
    bad = validated(stored(success=False, severity="critical"), subject="splits")
    validation_result.save(bad, "", folder)
    ticks = Ticks(grown, retrain_new_images=50)
    assert ticks.tick() == []
    assert ticks.said == "no training: a blocking check of splits fails"
    validation_result.save(sound, "", folder)
    assert ticks.triggers() == ["new images"]


def test_a_batch_that_drifted_starts_a_training(finished: Home, tmp_path: Path) -> None:
    bring(finished, "dark", str(darkened(tmp_path / "dark.zip", 200)))
    ticks = Ticks(finished)
    (request,) = ticks.tick()
    assert request.tags["captcha_assets/trigger"] == "drift"
    assert request.tags[WHY_TAG] == "the drift check failed for dark"
    assert ticks.tick() == []


def report_drift(home: Home, day: str = "2026-11-28", **changes: str) -> None:
    """Store a drift report of the champion, as far as the policy reads it."""
    champion = registry.champion(home.settings.paths.models)
    assert champion is not None
    found = {"day": day, "model_id": champion.model_id, "severity": "critical", "sentences": ["features"]}
    with writing_folder(home.settings.paths.drift_report(day), version="1") as part:
        (part / "drift.json").write_text(json.dumps(found | changes))


def alerts_of_drift(home: Home, ticks: int) -> list[list[str]]:
    """Tick the sensor that alerts, and return the lines of the alerts of drift that it has sent."""
    cursor = None
    for _ in range(ticks):
        with dg.build_sensor_context(home.instance, cursor, resources={"settings": home.settings}) as context:
            cursor = observed_sources(context).cursor
    log = home.settings.paths.alerts
    sent = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [alert["lines"] for alert in sent if alert["title"].endswith(" drift")]


def test_served_drift_starts_a_training_when_there_is_a_new_batch(grown: Home) -> None:
    report_drift(grown)
    ticks = Ticks(grown)
    (request,) = ticks.tick()
    assert request.tags["captcha_assets/trigger"] == "served drift"
    assert request.tags[WHY_TAG] == (
        "critical drift on 2026-11-28: features; to learn from: new batches: second"
    )
    assert ticks.tick() == []


@pytest.mark.slow
def test_served_drift_starts_a_training_when_there_are_enough_corrections(finished: Home) -> None:
    report_drift(finished)
    bring(finished, "corrections-2026-11-28", "synthetic:120:2")
    waiting = Ticks(finished, retrain_corrections=500)
    assert waiting.tick() == []
    assert " new corrections, a training starts at 500; new batches: none" in waiting.said
    assert Ticks(finished, retrain_corrections=100).triggers() == ["served drift"]


@pytest.mark.slow
def test_served_drift_with_nothing_to_learn_from_is_one_alert(finished: Home) -> None:
    report_drift(finished)
    ticks = Ticks(finished)
    assert ticks.tick() == []
    assert "critical drift on 2026-11-28: features (0 new corrections, a training starts at 100" in ticks.said
    ((line,),) = alerts_of_drift(finished, ticks=2)
    assert line.startswith("label predictions, the least certain first")
    assert line.endswith("(no training starts by itself, `automation` and `retraining` are off)")
    status = succeeded(finished.settings.paths.home, "status")
    assert "served predictions: critical drift on 2026-11-28: features" in status

    with open_prediction_log(f"sqlite:///{finished.settings.paths.home}/.serving/predictions.db") as log:
        for number in range(100):
            log.record(prediction(number))
        assert log.flush()
        for number in range(100):
            log.correct(f"id-{number}", prediction(number).label)
    _, (line,) = alerts_of_drift(finished, ticks=2)
    assert line.startswith("enough predictions are labelled: train with captcha-assets update, or: ")


@pytest.mark.slow
def test_served_drift_that_no_sensor_answers_is_one_alert(grown: Home) -> None:
    report_drift(grown)
    ((line,),) = alerts_of_drift(grown, ticks=2)
    assert line.startswith("there is new data to learn from: train with captcha-assets update")
    assert "`automation` and `retraining` are off" in line
    grown.settings.paths.alerts.unlink()
    run = dg.DagsterRun("retrain", status=dg.DagsterRunStatus.STARTED)
    grown.instance.add_run(run)
    assert alerts_of_drift(grown, ticks=1) == [], "a training is under way"
    grown.instance.report_run_failed(run)
    sensor_switches.switch(grown.instance, on=True)
    assert alerts_of_drift(grown, ticks=1) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"severity": "none"}, "no drift on 2026-11-29"),
        ({"model_id": "resnet18-of-before"}, "not checked yet"),
    ],
)
def test_a_report_without_drift_or_of_another_model_is_no_reason(
    grown: Home, changes: dict[str, str], words: str
) -> None:
    report_drift(grown)
    report_drift(grown, "2026-11-29", **changes)
    ticks = Ticks(grown)
    assert ticks.tick() == []
    assert f"served predictions: {words}; " in ticks.said
    assert alerts_of_drift(grown, ticks=1) == []


def test_a_damaged_report_is_no_reason(grown: Home) -> None:
    report_drift(grown)
    (grown.settings.paths.drift_report("2026-11-28") / "drift.json").write_text("{")
    assert Ticks(grown).tick() == []


def test_another_version_of_the_training_starts_one(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captcha_assets.sweeps.production_settings.TRAINING_CODE", "of tomorrow")
    ticks = Ticks(finished)
    assert ticks.triggers() == ["code"]
    assert ticks.tick() == []


def test_other_production_settings_start_one(finished: Home) -> None:
    finished.settings.paths.training_settings.write_text("epochs: 2\n")
    ticks = Ticks(finished)
    assert ticks.triggers() == ["configuration"]
    assert ticks.tick() == []


def test_no_second_training_starts_beside_one_that_runs(grown: Home) -> None:
    run = dg.DagsterRun("retrain", status=dg.DagsterRunStatus.STARTED)
    grown.instance.add_run(run)
    ticks = Ticks(grown, retrain_new_images=50)
    assert ticks.tick() == []
    assert ticks.said == f"a training is under way already: run {run.run_id}"
    grown.instance.report_run_failed(run)
    assert ticks.triggers() == ["new images"]
    assert ticks.tick() == []
    assert f"run {run.run_id[:8]}, failed, and is not started again for the same situation" in ticks.said


def test_a_training_that_the_daemon_is_going_to_retry_is_said_to_be_retried(grown: Home) -> None:
    ticks = Ticks(grown, retrain_new_images=50)
    assert ticks.triggers() == ["new images"]
    run = dg.DagsterRun("retrain", status=dg.DagsterRunStatus.STARTED, tags={"dagster/max_retries": "2"})
    grown.instance.add_run(run)
    grown.instance.report_run_failed(run)
    assert ticks.tick() == []
    assert f"run {run.run_id[:8]}, failed, and is retried from its last checkpoint" in ticks.said


def test_a_damaged_registry_is_an_error_of_the_tick_and_no_training(finished: Home) -> None:
    (finished.settings.paths.models / "candidate.json").write_text("{")
    with pytest.raises(registry.RegistryError, match="damaged"):
        Ticks(finished).tick()


def test_all_is_off_until_somebody_switches_it_on(home: Home) -> None:
    sensors = {sensor.name: sensor.default_status for sensor in home.definitions.sensors or ()}
    for name in ("retraining", "automation", "inbox_sensor"):
        assert sensors[name] == dg.DefaultSensorStatus.STOPPED, name


def test_a_training_that_fails_is_tried_again_twice_and_no_more(home: Home) -> None:
    """What the daemon asks of each failed run, on the instance as it is configured."""
    tags = {"dagster/max_retries": "2"}
    failed = dg.DagsterRun("retrain", status=dg.DagsterRunStatus.FAILURE, tags=tags)
    home.instance.add_run(failed)
    assert home.instance.run_retries_enabled
    retried = []
    while auto_reexecution_should_retry_run(home.instance, failed, RunFailureReason.STEP_FAILURE):
        root = retried[0].root_run_id if retried else failed.run_id
        failed = dg.DagsterRun(
            "retrain",
            status=dg.DagsterRunStatus.FAILURE,
            tags={**tags, "dagster/root_run_id": root, "dagster/parent_run_id": failed.run_id},
            root_run_id=root,
            parent_run_id=failed.run_id,
        )
        home.instance.add_run(failed)
        retried.append(failed)
    assert len(retried) == 2


def test_a_run_that_nobody_asked_to_retry_is_not_retried(home: Home) -> None:
    failed = dg.DagsterRun("ingest_batch", status=dg.DagsterRunStatus.FAILURE)
    home.instance.add_run(failed)
    assert not auto_reexecution_should_retry_run(home.instance, failed, RunFailureReason.STEP_FAILURE)
