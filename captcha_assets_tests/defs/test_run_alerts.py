"""One alert a run: what failed, which checks, which candidate; by the command or by the daemon, once."""

import json
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.cli.orchestration import sensor_switches
from captcha_assets.defs.run_alerts import alert_about, alert_on_failure
from captcha_assets.sources import batch_registration
from captcha_assets_tests.commands import succeeded
from captcha_assets_tests.defs.conftest import Home


def alerts(home: Home) -> list[dict[str, object]]:
    log = home.settings.paths.alerts
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def fail_without_a_command(home: Home) -> dg.ExecuteInProcessResult:
    """A failing run as the daemon launches it: no tag names the process that executes it."""
    home.add("gone", "synthetic:12:1")
    home.settings.paths.registration("gone").unlink()
    job = home.definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={dg.AssetKey("raw_batch")})
    return subset.execute_in_process(
        instance=home.instance, partition_key="gone", raise_on_error=False, tags={"dagster/partition": "gone"}
    )


def told_by_the_daemon(home: Home, result: dg.ExecuteInProcessResult) -> None:
    (failure,) = [event for event in result.all_events if event.event_type_value == "PIPELINE_FAILURE"]
    context = dg.build_run_status_sensor_context(
        "alert_on_failure",
        failure,
        home.instance,
        home.instance.get_run_by_id(result.run_id),
        resources={"settings": home.settings},
    ).for_run_failure()
    alert_on_failure(context)


def make_image_table(home: Home, batch: str, source: str) -> str | None:
    """Materialize a batch's image table, and return why that failed."""
    home.add(batch, source)
    assert home.materialize("raw_batch", partition=batch) is None
    assert alerts(home) == []
    return home.materialize("image_table", "rejected_images", partition=batch)


def test_a_quarantined_batch_is_one_alert_that_says_what_to_do(home: Home, mostly_bad_archive: Path) -> None:
    error = make_image_table(home, "bad", str(mostly_bad_archive))
    assert error
    found = "the column reason is not empty in "
    assert error == (
        "batch bad is quarantined: share_of_rejects (the column reason is not empty in 60 of 80 rows (75 %, "
        "where at most 50 % are accepted)) failed; correct its images and add it again under the same "
        "name and path (captcha-assets batch add), or remove it (captcha-assets batch remove bad)"
    )
    (alert,) = alerts(home)
    assert alert["title"] == "batch bad is quarantined"
    check, advice = map(str, alert["lines"])
    assert check.startswith(found), "the checks that warn are no alert"
    assert "60 of 80 rows (75 %, where at most 50 % are accepted), for example reason not_an_image, " in check
    assert check.endswith("; expected: the batch is not mostly bad (share_of_rejects)")
    assert "/quality/image_table/bad/report.html" in advice
    assert "captcha-assets batch remove bad" in advice
    assert "http://localhost:3000/runs/" in str(alert["link"])


def test_a_check_that_only_warns_is_no_alert(home: Home) -> None:
    assert make_image_table(home, "small", "synthetic:12:1") is None
    (found,) = home.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("image_table"), "every_class_present"), limit=1
    )
    assert found.evaluation
    assert not found.evaluation.passed
    assert alerts(home) == []


def drift_by_the_daemon(home: Home) -> None:
    """A run of the daemon, in which a batch differs from what the champion was trained on."""
    home.add("drifted", "synthetic:12:1")
    run = home.instance.create_run_for_job(
        home.definitions.resolve_implicit_global_asset_job_def(),
        tags={"dagster/partition": "drifted"},
        status=dg.DagsterRunStatus.SUCCESS,
    )
    found = dg.AssetCheckEvaluation(
        dg.AssetKey("image_table"),
        "drift",
        passed=False,
        metadata={},
        severity=dg.AssetCheckSeverity.WARN,
        description="drifted: brightness",
        partition="drifted",
    )
    event = dg.DagsterEvent(
        dg.DagsterEventType.ASSET_CHECK_EVALUATION.value, "job", event_specific_data=found, message=""
    )
    home.instance.report_dagster_event(event, run.run_id)
    alert_about(home.instance, run, home.settings)


@pytest.mark.slow
@pytest.mark.parametrize("retraining", [False, True])
def test_drift_is_an_alert_only_where_nothing_retrains(home: Home, retraining: bool) -> None:
    if retraining:
        sensor_switches.switch(home.instance, on=True)
    drift_by_the_daemon(home)
    drift_by_the_daemon(home)  # the same content, added once more
    if retraining:
        assert alerts(home) == []
    else:
        (alert,) = alerts(home)
        assert alert["title"] == "batch drifted does not look like the training images"
        lines = "\n".join(map(str, alert["lines"]))
        assert "drifted: brightness (drift)" in lines
        assert "captcha-assets automation on" in lines


def test_the_daemon_alerts_of_the_runs_that_no_command_executes(home: Home) -> None:
    result = fail_without_a_command(home)
    assert alerts(home) == []
    told_by_the_daemon(home, result)
    (alert,) = alerts(home)
    assert str(alert["title"]).endswith("[gone]: the run failed")
    reason, advice = map(str, alert["lines"])
    assert reason.startswith("there is no batch gone")
    assert "captcha-assets update" in advice


@pytest.mark.parametrize(
    "tags",
    [{"captcha_assets/process": "here 1 1"}, {"dagster/will_retry": "true"}],
    ids=["command", "retried"],
)
def test_the_daemon_is_silent_where_a_command_tells_or_a_retry_follows(
    home: Home, tags: dict[str, str]
) -> None:
    result = fail_without_a_command(home)
    home.instance.add_run_tags(result.run_id, tags)
    told_by_the_daemon(home, result)
    assert alerts(home) == []


@pytest.mark.slow
@pytest.mark.parametrize("automation", [True, False])
def test_a_run_that_met_a_removed_batch_is_an_alert_only_where_nothing_goes_on_by_itself(
    finished: Home, automation: bool
) -> None:
    sensor_switches.switch(finished.instance, on=automation)
    batch_registration.remove(finished.settings.paths, "first")
    before = len(alerts(finished))
    job = finished.definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={dg.AssetKey("evaluation")})
    result = subset.execute_in_process(instance=finished.instance, raise_on_error=False)
    assert not result.success
    told_by_the_daemon(finished, result)
    sent = alerts(finished)[before:]
    assert len(sent) == (0 if automation else 1)
    assert all("first.parquet is missing" in str(alert["lines"]) for alert in sent)

    retraining = finished.definitions.resolve_job_def("retrain")
    told_by_the_daemon(
        finished, retraining.execute_in_process(instance=finished.instance, raise_on_error=False)
    )
    training = alerts(finished)[before + len(sent) :]
    assert [alert["title"] for alert in training] == ["retrain: the run failed"], "no sensor trains again"
    status = json.loads(succeeded(finished.settings.paths.home, "status", "--json"))
    (stale,) = [step for step in status["stale"] if step["step"] == "resnet18"]
    assert "first.parquet is missing" in stale["last_failure"]
    assert "failed, and is not started again for the same situation" in status["next_training"]
