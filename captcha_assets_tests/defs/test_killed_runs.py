"""Runs of commands that were killed come to an end, those of commands that live are let be."""

import json
import os
import signal
import subprocess
import sys
import uuid

import dagster as dg
import pytest

from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.defs.killed_runs import PROCESS_TAG, STEP_TAG, UNFINISHED
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets_tests.defs.conftest import Home

#: A process that leaves a run in each status, and waits.
STARTING_RUNS = """
import sys, time, uuid
import dagster as dg
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.cli.orchestration.command_lock import this_process
from captcha_assets.defs.killed_runs import PROCESS_TAG, STEP_TAG
from captcha_assets.settings import load_settings

with open_instance(load_settings()) as instance:
    tags = {PROCESS_TAG: this_process(instance), STEP_TAG: "splits"}
    for status in sys.argv[1:]:
        status = dg.DagsterRunStatus(status)
        instance.add_run(dg.DagsterRun("__ASSET_JOB", run_id=str(uuid.uuid4()), status=status, tags=tags))
    print("made", flush=True)
    time.sleep(300)
"""


def starting(*statuses: str) -> "subprocess.Popen[str]":
    """A living process that has runs of these statuses."""
    command = [sys.executable, "-c", STARTING_RUNS, *statuses]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "made\n"
    return process


def unfinished(home: Home) -> list[str]:
    with open_instance(home.settings) as instance:
        return sorted(run.status.value for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))


def test_runs_of_a_killed_command_end_whatever_their_status_with_one_alert_each(home: Home) -> None:
    process = starting("NOT_STARTED", "STARTING", "STARTED")
    assert unfinished(home) == ["NOT_STARTED", "STARTED", "STARTING"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert unfinished(home) == unfinished(home) == []
    assert {run.status.value for run in home.instance.get_runs()} == {"FAILURE"}
    alerts = [json.loads(line) for line in home.settings.paths.alerts.read_text().splitlines()]
    assert [alert["title"] for alert in alerts] == ["splits: the run failed"] * 3
    assert all("was killed" in "".join(alert["lines"]) for alert in alerts)


def test_with_the_daemon_running_lost_runs_end_without_a_further_command(home: Home) -> None:
    process = starting("STARTED")
    process.kill()
    process.wait()
    with dg.build_sensor_context(home.instance, resources={"settings": home.settings}) as context:
        observed_sources(context)
    assert {run.status.value for run in home.instance.get_runs()} == {"FAILURE"}


def test_the_pool_of_a_killed_command_is_free_again(home: Home) -> None:
    process = starting("STARTED")
    (run,) = home.instance.get_runs()
    home.instance.event_log_storage.set_concurrency_slots("training", 1)
    home.instance.event_log_storage.claim_concurrency_slot("training", run.run_id, "resnet18")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert unfinished(home) == []
    assert home.instance.event_log_storage.get_concurrency_info("training").active_slot_count == 0


@pytest.mark.slow
def test_a_run_of_which_nothing_is_known_is_let_be_and_status_says_how_to_end_it(home: Home) -> None:
    tags = {PROCESS_TAG: f"{os.uname().nodename} 999999 1", STEP_TAG: "splits"}
    run_id = str(uuid.uuid4())
    home.instance.add_run(
        dg.DagsterRun("__ASSET_JOB", run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=tags)
    )
    assert unfinished(home) == ["STARTED"]
    command = [sys.executable, "-m", "captcha_assets.cli", "status"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if run_id[:8] in line]
    assert "if the machine or container that executes it is gone, terminate it in the UI" in line


@pytest.mark.parametrize("moment", ["create_run_for_job", "get_run_by_id"])
def test_an_interrupt_outside_of_a_step_leaves_no_run_behind(
    home: Home, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster makes the run before it handles interrupts, and looks at it after it no longer does."""
    home.add("one", "synthetic:40:1")
    real = getattr(dg.DagsterInstance, moment)

    def interrupted(*arguments: object, **named: object) -> object:
        result = real(*arguments, **named)
        if moment == "create_run_for_job":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(dg.DagsterInstance, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            home.materialize("raw_batch", partition="one")
    assert unfinished(home) == []
