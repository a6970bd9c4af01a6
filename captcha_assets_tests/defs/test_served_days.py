"""Days of the prediction log: tables that are never final, corrections that become batches."""

import sqlite3
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import polars as pl
import pytest
import xxhash

from captcha_assets.defs.observed_sources import observe, observed_sources
from captcha_assets.defs.serving.served_days import served_predictions
from captcha_assets.images.index import LABEL_CONFLICT
from captcha_assets.serving.prediction_log import PredictionLog, open_prediction_log
from captcha_assets.sources import batch_registration, synthetic_batches
from captcha_assets_tests.commands import run, succeeded
from captcha_assets_tests.defs.conftest import Home
from captcha_assets_tests.images.tables import rows_of
from captcha_assets_tests.serving.predictions import prediction

DAY, BATCH = "2026-11-28", "corrections-2026-11-28"
OF_DAYS = "key:prediction_log or key:corrections"
THROUGH_SPLITS = f"{OF_DAYS} or +key:splits or key:rejected_images or key:data_snapshot"


@pytest.fixture(autouse=True)
def _every_correction_becomes_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTCHA_CORRECTIONS_IN_BATCH", "1")


@pytest.fixture
def images(tmp_path: Path) -> list[tuple[str, bytes]]:
    """Forty images with their labels."""
    synthetic_batches.write_archive(tmp_path / "served.zip", 40, seed=77)
    with zipfile.ZipFile(tmp_path / "served.zip") as archive:
        return [(Path(name).name.split("_")[0], archive.read(name)) for name in sorted(archive.namelist())]


def open_log(home: Home) -> PredictionLog:
    return open_prediction_log(f"sqlite:///{home.settings.paths.home}/.serving/predictions.db")


def serve(log: PredictionLog, images: list[tuple[str, bytes]], first: int = 0, **changes: object) -> None:
    for number, (_, image) in enumerate(images, first):
        changed = {
            "image": image,
            "image_hash": xxhash.xxh3_128_hexdigest(image),
            "statistics": {},
            **changes,
        }
        assert log.record(prediction(number, **changed))
    assert log.flush()


def members(home: Home) -> set[str]:
    with zipfile.ZipFile(home.settings.paths.raw / f"{BATCH}.zip") as archive:
        return set(archive.namelist())


def test_a_home_without_a_service_has_no_days(home: Home) -> None:
    assert home.update(OF_DAYS) == []
    assert home.instance.get_dynamic_partitions("day") == []
    assert not (home.settings.paths.home / ".serving").exists()
    assert not any("prediction_log" in step or "corrections" in step for step in home.stale())


@pytest.mark.slow
def test_corrected_images_go_the_way_of_any_batch_and_late_ones_too(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    home.add("first", "synthetic:60:1")
    with open_log(home) as log:
        serve(log, images)
        log.correct("id-0", images[1][0])  # a mistake, which the next line mends
        for number in range(10):
            log.correct(f"id-{number}", images[number][0], "ann")
        assert log.pending_corrections() == 10
        outcomes = home.update(THROUGH_SPLITS)
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert log.pending_corrections() == 0

    table = pl.read_parquet(str(home.settings.paths.prediction_log(DAY)))
    assert table.height == 40
    assert table["corrected_label"].drop_nulls().to_list() == [label for label, _ in images[:10]]
    wanted = {f"{label}_{xxhash.xxh3_128_hexdigest(image)}.png" for label, image in images[:10]}
    assert members(home) == wanted
    splits = rows_of(home.settings.paths.splits)
    assert splits.filter(pl.col("batch") == BATCH).height == 10
    assert home.update(THROUGH_SPLITS) == []

    with open_log(home) as log:  # the day was not over
        serve(log, images[:3], first=100)
        log.correct("id-100", "a" if images[0][0] != "a" else "b")
        log.correct("id-20", images[20][0])
        changed = {str(outcome.step) for outcome in home.update(THROUGH_SPLITS)}
        assert log.pending_corrections() == 0
    assert {f"prediction_log [{DAY}]", f"corrections [{DAY}]", f"raw_batch [{BATCH}]"} <= changed
    assert len(members(home)) == 12
    index = rows_of(home.settings.paths.image_index)
    assert index.filter(pl.col("status") == LABEL_CONFLICT).height == 1
    assert home.update(THROUGH_SPLITS) == []


def check(home: Home, name: str) -> dg.AssetCheckEvaluation:
    """The latest result of a check of the day's corrections."""
    key = dg.AssetCheckKey(dg.AssetKey("corrections"), name)
    record = home.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.evaluation
    assert record.evaluation.partition == DAY
    return record.evaluation


def shown(evaluation: dg.AssetCheckEvaluation) -> list[dict[str, object]]:
    found = evaluation.metadata["images"]
    assert isinstance(found, dg.TableMetadataValue)
    return [dict(record.data) for record in found.records]


def other_than(label: str) -> str:
    return "a" if label != "a" else "b"


@pytest.mark.slow
def test_a_correction_that_contradicts_a_label_is_named_with_what_to_do(
    home: Home, images: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    label = images[0][0]
    with zipfile.ZipFile(tmp_path / "known.zip", "w") as archive:
        for number, (said, content) in enumerate(images[:20]):
            archive.writestr(f"{said}_{number}.png", content)
    home.add("known", str(tmp_path / "known.zip"))
    assert [one.error for one in home.update("+key:splits") if one.error] == []
    with open_log(home) as log:
        serve(log, images[:30])
        log.correct("id-1", images[1][0])
        log.correct("id-25", images[25][0])
        assert [one.error for one in home.update(OF_DAYS) if one.error] == []
        assert check(home, "labels_agree").passed, "the same label again, and an image that is new"
        log.correct("id-0", other_than(label))
        assert [one.error for one in home.update(OF_DAYS) if one.error] == []
    found = check(home, "labels_agree")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert str(found.description).startswith("1 corrected image has another label elsewhere")
    assert f"a line in {home.settings.paths.label_decisions} decides" in str(found.description)
    (row,) = shown(found)
    assert (row["inference_ids"], row["label"]) == ("id-0", other_than(label))
    assert row["sources"] == f"known/{label}_0.png says {label}"

    assert [one.error for one in home.update("+key:splits") if one.error] == []
    index = rows_of(home.settings.paths.image_index)
    assert index.filter(pl.col("status") == LABEL_CONFLICT)["image_id"].to_list() == [row["image_id"]]
    decision = f"image_id,decision,label,reason\n{row['image_id']},keep,{label},a slip\n"
    home.settings.paths.label_decisions.write_text(decision)
    assert home.materialize("corrections", partition=DAY) is None
    assert check(home, "labels_agree").passed, "somebody has decided"


@pytest.mark.slow
def test_two_corrections_that_contradict_each_other_are_named(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    label = images[0][0]
    with open_log(home) as log:
        serve(log, images[:1])
        serve(log, images[:1], first=7)
        log.correct("id-0", label)
        log.correct("id-7", other_than(label))
        assert [one.error for one in home.update(OF_DAYS) if one.error] == []
    rows = shown(check(home, "labels_agree"))
    assert {row["label"] for row in rows} == {label, other_than(label)}
    assert {row["inference_ids"] for row in rows} == {"id-0, id-7"}


@pytest.mark.slow
def test_a_corrected_image_that_is_rejected_is_named(home: Home, images: list[tuple[str, bytes]]) -> None:
    blank = cv2.imencode(".png", np.full((52, 32), 200, np.uint8))[1].tobytes()
    with open_log(home) as log:
        serve(log, [*images[:3], ("a", blank)])
        log.correct("id-0", images[0][0])
        assert [one.error for one in home.update(OF_DAYS) if one.error] == []
        assert check(home, "images_usable").passed
        log.correct("id-3", "a")
        assert [one.error for one in home.update(THROUGH_SPLITS) if one.error] == []
    found = check(home, "images_usable")
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity.WARN
    assert "1 corrected image has been rejected (blank)" in str(found.description)
    (row,) = shown(found)
    assert (row["inference_ids"], row["label"], row["reason"]) == ("id-3", "a", "blank")
    rejected = pl.read_parquet(str(home.settings.paths.rejected_images(BATCH)))
    assert rejected["detail"].to_list() == [row["detail"]], "image_table says the same"
    assert check(home, "labels_agree").passed


@pytest.mark.slow
def test_new_rows_without_a_correction_change_no_batch(home: Home, images: list[tuple[str, bytes]]) -> None:
    with open_log(home) as log:
        serve(log, images[:5])
        log.correct("id-1", images[1][0])
        assert len(home.update(OF_DAYS)) == 2
        serve(log, images[5:9], first=5)
    outcomes = home.update(OF_DAYS)
    assert [str(outcome.step) for outcome in outcomes] == [f"prediction_log [{DAY}]", f"corrections [{DAY}]"]
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert not any(BATCH in step for step in home.stale() if "raw_batch" not in step and "image" not in step)
    assert home.runs_of("raw_batch") == 0


@pytest.mark.slow
def test_corrections_wait_until_those_of_all_days_are_enough(
    home: Home, images: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTCHA_CORRECTIONS_IN_BATCH", "10")
    day_before = datetime(2026, 11, 27, 12, tzinfo=UTC)

    def batches() -> list[str]:
        assert [outcome.error for outcome in home.update(OF_DAYS) if outcome.error] == []
        return sorted(batch_registration.known_batches(home.settings.paths))

    with open_log(home) as log:
        serve(log, images[:20])
        serve(log, images[20:], first=20, time=day_before)
        for number in (*range(6), 20, 21, 22):
            log.correct(f"id-{number}", images[number][0])
        assert batches() == []
        assert log.pending_corrections() == 9
        log.correct("id-23", images[23][0])
        assert batches() == ["corrections-2026-11-27", BATCH]
        assert log.pending_corrections() == 0
        log.correct("id-6", images[6][0])  # the day has a batch already
        batches()
        assert log.pending_corrections() == 0


@pytest.mark.slow
def test_a_batch_of_corrections_is_removed_as_any_batch(home: Home, images: list[tuple[str, bytes]]) -> None:
    with open_log(home) as log:
        serve(log, images)
        for number in range(10):
            log.correct(f"id-{number}", images[number][0])
    home.update(THROUGH_SPLITS)
    succeeded(home.settings.paths.home, "batch", "remove", BATCH)
    assert not (home.settings.paths.raw / f"{BATCH}.zip").exists()
    succeeded(home.settings.paths.home, "update", "--select", OF_DAYS)
    assert BATCH not in succeeded(home.settings.paths.home, "batch", "list")
    with open_log(home) as log:
        log.correct("id-20", images[20][0])
    succeeded(home.settings.paths.home, "update", "--select", OF_DAYS)
    assert BATCH in succeeded(home.settings.paths.home, "batch", "list")


@pytest.mark.slow
def test_corrections_of_a_home_that_is_gone_are_made_again_from_the_log_of_its_backup(
    home: Home, images: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    with open_log(home) as log:
        serve(log, images)
        for number in range(10):
            log.correct(f"id-{number}", images[number][0])
    old, new, through_fetch = home.settings.paths.home, tmp_path / "new", f"{OF_DAYS} or key:raw_batch"
    assert not [outcome.error for outcome in home.update(through_fetch) if outcome.error]
    wanted = members(home)
    succeeded(old, "backup", "create", str(tmp_path / "backup.zip"))
    succeeded(new, "backup", "restore", str(tmp_path / "backup.zip"))
    old.rename(tmp_path / "gone")
    failed = run(new, "update", "--select", through_fetch)
    advised = f"captcha-assets backfill corrections --days {DAY}"
    assert f"Make it again from the prediction log: {advised}. " in failed.stdout + failed.stderr
    succeeded(new, *advised.split()[1:])
    succeeded(new, "update", "--select", through_fetch)
    with zipfile.ZipFile(new / "data" / "raw" / f"{BATCH}.zip") as archive:
        assert set(archive.namelist()) == wanted


def test_predictions_that_contradict_themselves_block_their_day(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
        serve(log, images[3:4], first=3, score=0.99)
        log.correct("id-0", "a")
    outcomes = home.update(OF_DAYS)
    assert "score_is_highest_probability" in str(outcomes[0].error)
    assert outcomes[1].error == "waits for prediction_log"
    assert not home.settings.paths.corrections(DAY).exists()


def change(home: Home, statement: str) -> None:
    """Change the log by SQL, as somebody with a database tool would."""
    with sqlite3.connect(home.settings.paths.home / ".serving" / "predictions.db") as connection:
        assert connection.execute(statement).rowcount >= 1
    connection.close()


def test_rows_that_are_changed_by_sql_make_their_day_stale(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
        serve(log, images[3:6], first=3, time=datetime(2026, 11, 27, 12, tzinfo=UTC))
        log.correct("id-0", "a")
    home.update(OF_DAYS)
    assert home.update(OF_DAYS) == []
    change(home, "UPDATE predictions SET model_version = 'another' WHERE inference_id = 'id-1'")
    made = [str(outcome.step) for outcome in home.update(OF_DAYS)]
    assert made[0] == f"prediction_log [{DAY}]"
    assert not [step for step in made if "2026-11-27" in step]


@pytest.mark.slow
def test_a_day_that_failed_a_check_is_named_and_tried_again_by_every_update_until_it_passes(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
        serve(log, images[3:4], first=3, score=0.99)
    first, second = (home.update(OF_DAYS) for _ in range(2))
    assert first[0].error == second[0].error
    why = f"prediction_log [{DAY}]: failed the blocking check score_is_highest_probability"
    assert why in succeeded(home.settings.paths.home, "status")
    assert why in succeeded(home.settings.paths.home, "update", "--dry-run", "--select", OF_DAYS)
    change(home, "DELETE FROM predictions WHERE score = 0.99")
    assert [outcome.error for outcome in home.update(OF_DAYS)] == [None, None]
    assert home.update(OF_DAYS) == []


def test_a_day_that_failed_a_check_is_tried_again_by_a_backfill(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
        serve(log, images[3:4], first=3, score=0.99)
    home.update(OF_DAYS)
    change(home, "DELETE FROM predictions WHERE score = 0.99")
    said = succeeded(home.settings.paths.home, "backfill", "prediction_log", "--days", DAY)
    assert "1 materialized, 0 failed" in said


def test_a_corrupt_row_is_rejected_with_its_reason_and_its_day_goes_on(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:4])
        log.correct("id-0", "a")
    change(home, "UPDATE predictions SET probabilities = 'no JSON' WHERE inference_id = 'id-2'")
    assert [outcome.error for outcome in home.update(OF_DAYS)] == [None, None]
    table = pl.read_parquet(str(home.settings.paths.prediction_log(DAY)))
    assert table["inference_id"].to_list() == ["id-0", "id-1", "id-3"]
    rejected = pl.read_parquet(str(home.settings.paths.rejected_predictions(DAY)))
    assert rejected.rows() == [("id-2", "probabilities is not JSON: no JSON")]
    event = home.instance.get_latest_materialization_event(dg.AssetKey("prediction_log"))
    assert event
    assert event.asset_materialization
    assert event.asset_materialization.metadata["rejected"].value == 1
    assert home.update(OF_DAYS) == []

    with open_log(home) as log:  # the row is still in the log
        change(home, "DELETE FROM predictions WHERE inference_id = 'id-2'")
        serve(log, images[2:3], first=2)
    home.update(OF_DAYS)
    assert pl.read_parquet(str(home.settings.paths.prediction_log(DAY))).height == 4
    assert not home.settings.paths.rejected_predictions(DAY).exists()


def test_a_row_whose_time_names_no_day_is_named_by_status(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
    change(home, "UPDATE predictions SET time = 'then' WHERE inference_id = 'id-2'")
    assert [outcome.error for outcome in home.update(OF_DAYS)] == [None, None]
    assert home.instance.get_dynamic_partitions("day") == [DAY]
    said = succeeded(home.settings.paths.home, "status")
    assert "holds 1 of no day, since their time cannot be read: id-2" in said


def test_a_table_that_is_lost_is_made_again(home: Home, images: list[tuple[str, bytes]]) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
    home.update(OF_DAYS)
    home.settings.paths.prediction_log(DAY).unlink()
    assert [str(one.step) for one in home.update(OF_DAYS)] == [f"prediction_log [{DAY}]"]
    home.settings.paths.corrections(DAY).unlink()
    assert [str(one.step) for one in home.update(OF_DAYS)] == [f"corrections [{DAY}]"]


@pytest.mark.slow
def test_the_retention_reaches_the_tables(
    home: Home, images: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    with open_log(home) as log:
        serve(log, images[:3], time=old)
        serve(log, images[3:6], first=3, time=old - timedelta(days=1))
        log.correct("id-4", "a")
    home.update(OF_DAYS)
    gone, kept = (moment.date().isoformat() for moment in (old, old - timedelta(days=1)))
    assert home.settings.paths.prediction_log(gone).exists()
    monkeypatch.setenv("CAPTCHA_SERVING_PREDICTION_LOG_RETENTION", "30")
    url = f"sqlite:///{home.settings.paths.home}/.serving/predictions.db"
    with open_prediction_log(url, retention_days=30):
        pass
    home.update(OF_DAYS)
    assert home.instance.get_dynamic_partitions("day") == [kept]
    assert not home.settings.paths.prediction_log(gone).exists()
    assert pl.read_parquet(str(home.settings.paths.prediction_log(kept)))["inference_id"].to_list() == [
        "id-4"
    ]


def test_an_unreadable_log_breaks_nothing_else(home: Home, images: list[tuple[str, bytes]]) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
    home.update(OF_DAYS)
    file = home.settings.paths.home / ".serving" / "predictions.db"
    file.write_bytes(b"no database at all" * 100)
    assert home.update(OF_DAYS) == []
    error = home.materialize("prediction_log", partition=DAY)
    assert error.startswith(f"the prediction log cannot be used: file is not a database ({file})")
    assert f"waits    {error}" in succeeded(home.settings.paths.home, "status")


def test_the_sensor_reports_a_running_day_once_in_a_while(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    def seen() -> list[str | None]:
        with dg.build_sensor_context(home.instance, resources={"settings": home.settings}) as context:
            result = observed_sources(context)
        for event in result.asset_events:
            home.instance.report_runless_asset_event(event)
        return [event.partition for event in result.asset_events if event.partition]

    with open_log(home) as log:
        serve(log, images[:3])
        assert seen() == [DAY]
        assert seen() == []
        serve(log, images[3:6], first=3)
        assert seen() == []  # commands don't wait: they see it at once
    assert f"prediction_log [{DAY}]" in {str(one.step) for one in home.update(OF_DAYS)}


@pytest.mark.slow
def test_automation_materializes_a_day_when_it_has_changed(
    home: Home, images: list[tuple[str, bytes]]
) -> None:
    days = dg.AssetSelection.assets("prediction_log", "corrections")
    cursor = None

    def requested() -> set[tuple[str, str | None]]:
        nonlocal cursor
        observe(home.settings, home.instance)
        found = dg.evaluate_automation_conditions(home.definitions, home.instance, days, cursor=cursor)
        cursor = found.cursor
        asked = {
            (key, partition)
            for key in ("prediction_log", "corrections")
            for partition in found.get_requested_partitions(dg.AssetKey(key))
        }
        for key, partition in sorted(asked, reverse=True):
            assert home.materialize(key, partition=partition) is None
        return asked

    assert requested() == set()
    with open_log(home) as log:
        serve(log, images[:3])
        assert ("prediction_log", DAY) in requested()
        requested()
        assert home.runs_of("corrections") == 1
        assert requested() == set()
        serve(log, images[3:5], first=3)
        assert requested() == {("prediction_log", DAY)}
        assert requested() == {("corrections", DAY)}
        assert requested() == set()


def test_a_day_can_be_observed_in_the_ui(home: Home, images: list[tuple[str, bytes]]) -> None:
    with open_log(home) as log:
        serve(log, images[:3])
        log.correct("id-1", "a")
    observe(home.settings, home.instance)
    look = dg.define_asset_job("look", selection=[served_predictions])
    looking = dg.Definitions([served_predictions], jobs=[look], resources={"settings": home.settings})
    done = looking.resolve_job_def("look").execute_in_process(instance=home.instance, partition_key=DAY)
    (event,) = done.asset_observations_for_node("served_predictions")
    assert event.partition == DAY
    assert str(event.data_version).startswith("3-1-")
    home.update(OF_DAYS)
    assert home.update(OF_DAYS) == []
