"""Runs whose process is gone: without this module, the run of a killed command would hold its pool for ever.

A process that executes runs keeps a file locked in the Dagster home. The system drops the lock when the
process ends, however it ends. So every command can distinguish a run that is under way from one that is
lost, also in another container or after a restart of the machine, where host names and process ids say
nothing. The runs of a process that has no such file in this Dagster home are not ended.

Dagster's run monitoring (`run_monitoring` in dagster.yaml) watches only the runs that its daemon launched.
"""

from contextlib import suppress
from pathlib import Path

import dagster as dg

from captcha_assets.atomic_files import locked
from captcha_assets.defs.dagster_internals import is_reserved_asset_job_name

#: Tag of a run that a command executes in its own process: the name of the locked file of the process.
PROCESS_TAG = "captcha_assets/process"
#: Tag of the same run: what it materializes, `splits` or `raw_batch [october]`.
STEP_TAG = "captcha_assets/step"

#: Statuses of runs that have not come to an end.
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

_KILLED = "The process of this run was killed: start it again."


def process_folder(instance: dg.DagsterInstance) -> Path:
    """Return the folder of the files that commands keep locked."""
    return Path(instance.root_directory) / "processes"


def assets_of(run: dg.DagsterRun) -> frozenset[str] | None:
    """Return the assets that a run materializes; None where the run does not say which."""
    if STEP_TAG in run.tags:
        return frozenset(run.tags[STEP_TAG].partition(" [")[0].split(" + "))
    return frozenset(key.to_user_string() for key in run.asset_selection or ()) or None


def assets_in_words(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Return the names of the assets that a run materializes, or of its job where that has a name."""
    if assets := assets_of(run):
        return ", ".join(sorted(assets))
    if not is_reserved_asset_job_name(run.job_name):
        return run.job_name
    planned = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    events = [entry.dagster_event for entry in planned if entry.dagster_event]
    found = {event.asset_key.to_user_string() for event in events if event.asset_key}
    return ", ".join(sorted(found)) or "assets that are not known yet"


def fail_killed_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """End the runs whose process is gone, and free the pools that they held.

    Returns:
        Those runs, as they are now.
    """
    lost = []
    for path in sorted(process_folder(instance).glob("*.lock")):
        # Locked: the process lives. Not found: another command has just dealt with it.
        with suppress(BlockingIOError, FileNotFoundError), locked(path, wait=False):
            if path.exists():
                lost += [end(instance, run, _KILLED) for run in unfinished_runs(instance, path.stem)]
                path.unlink()
    return lost


def unfinished_runs(instance: dg.DagsterInstance, process: str) -> list[dg.DagsterRun]:
    """Return the runs of a process that have not come to an end."""
    return list(instance.get_runs(dg.RunsFilter(tags={PROCESS_TAG: process}, statuses=UNFINISHED)))


def unfinished_runs_of_daemon(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Return the runs that no command executes, and that have not come to an end."""
    return [
        run for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)) if PROCESS_TAG not in run.tags
    ]


def end(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> dg.DagsterRun:
    """Fail a run whose process is gone, free the pools that it held, and return it as it is now."""
    instance.report_run_failed(run, why)
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return instance.get_run_by_id(run.run_id) or run
