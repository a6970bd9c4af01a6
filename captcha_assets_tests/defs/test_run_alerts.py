"""One alert a run: what failed, which checks, who was refused; by the command or by the daemon, once."""

import json
from pathlib import Path

import dagster as dg
import pytest

from captcha_assets.defs.alerts import alert_on_failure
from captcha_assets_tests.defs.conftest import Home


def alerts(home: Home) -> list[dict[str, object]]:
    log = home.settings.alerts
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def fail_without_a_command(home: Home) -> dg.ExecuteInProcessResult:
    """A failing run as the daemon makes it: it does not say which process makes it."""
    home.add("gone", "synthetic:12:1")
    home.settings.delivery("gone").unlink()
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


def test_a_failed_blocking_check_is_told_once_with_its_figures(home: Home, mostly_bad_archive: Path) -> None:
    home.add("bad", str(mostly_bad_archive))
    assert home.make("raw_batch", partition="bad") is None
    assert alerts(home) == []
    assert home.make("image_table", "rejected_images", partition="bad")
    (alert,) = alerts(home)
    assert alert["title"] == "image_table + rejected_images [bad]: the run failed"
    lines = "\n".join(map(str, alert["lines"]))
    assert "check share_of_rejects of image_table failed: expected at most 50 %" in lines
    assert "http://localhost:3000/runs/" in str(alert["link"])


def test_a_check_that_warns_is_told_though_the_run_went_well(home: Home) -> None:
    home.add("small", "synthetic:12:1")
    assert home.make("raw_batch", partition="small") is None
    assert home.make("image_table", "rejected_images", partition="small") is None
    (alert,) = alerts(home)
    assert alert["title"] == "image_table + rejected_images [small]: made, but look at it"
    assert any("every_class_present of image_table warns" in str(line) for line in alert["lines"])


def test_the_daemon_tells_of_the_runs_that_no_command_made(home: Home) -> None:
    result = fail_without_a_command(home)
    assert alerts(home) == []
    told_by_the_daemon(home, result)
    (alert,) = alerts(home)
    assert str(alert["title"]).endswith("[gone]: the run failed")
    assert any("gone" in str(line) for line in alert["lines"])


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
