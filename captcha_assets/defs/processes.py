"""Runs whose process is gone: a killed command cannot say so itself, and would hold its pool for ever.

Runs that Dagster's daemon started are the daemon's to watch (`run_monitoring` in dagster.yaml).
"""

import os
import socket

import dagster as dg
import psutil

#: Tag of a run that a command makes in its own process: host, process id, when that process began.
PROCESS_TAG = "captcha_assets/process"
#: Tag of the same run: what it makes, `splits` or `raw_batch [october]`.
STEP_TAG = "captcha_assets/step"

#: Statuses of runs that have not come to an end.
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def this_process() -> str:
    """The value of `PROCESS_TAG` for this process."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.0f}"


def give_up_lost_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose process is gone from this machine, and free the pools that they held.

    Returns:
        The ids of those runs.
    """
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    lost = [run for run in instance.get_runs(unfinished) if _is_lost(run.tags.get(PROCESS_TAG))]
    for run in lost:
        instance.report_run_failed(run, "The process of this run was killed.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return [run.run_id for run in lost]


def _is_lost(process: str | None) -> bool:
    if process is None:
        return False
    host, pid, began = process.rsplit(" ", 2)
    if host != socket.gethostname():
        return False
    try:
        process_now = psutil.Process(int(pid))
        # A process id is given out again; the moment of its beginning tells the two apart.
        is_another = abs(process_now.create_time() - float(began)) > 2
        return is_another or process_now.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
