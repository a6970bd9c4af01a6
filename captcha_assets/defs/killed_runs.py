"""Runs whose process is gone: a killed command cannot say so itself, and would hold its pool for ever.

A process that makes runs keeps a file locked in the Dagster home. The system drops the lock when the process
ends, however it ends. So every command can distinguish a run that is under way from one that is lost, in
another container or after a restart of the machine too, where host names and process ids say nothing. Of a
process that has no such file in this Dagster home, nothing is known, and its runs are left alone.

Runs that Dagster's daemon started are the daemon's to watch (`run_monitoring` in dagster.yaml).
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from captcha_assets import interrupts

#: Tag of a run that a command makes in its own process: the name of the file that the process keeps locked.
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

#: The locked file of this process (its id guards against a fork) in each Dagster home.
_own: dict[tuple[Path, int], Path] = {}


def this_process(instance: dg.DagsterInstance) -> str:
    """The value of `PROCESS_TAG` for this process, whose file is locked from now on until it ends."""
    key = (_folder(instance), os.getpid())
    if key not in _own:
        _own[key] = _new_locked_file(key[0])
    return _own[key].stem


def _folder(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "processes"


def _new_locked_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{secrets.token_hex(8)}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():  # nobody took it for one left behind, between the two calls
            return path
        os.close(descriptor)


def assets_of(run: dg.DagsterRun) -> frozenset[str] | None:
    """Return the assets that a run materializes; None where the run does not say which."""
    if STEP_TAG in run.tags:
        return frozenset(run.tags[STEP_TAG].partition(" [")[0].split(" + "))
    return frozenset(key.to_user_string() for key in run.asset_selection or ()) or None


@contextmanager
def alone(instance: dg.DagsterInstance, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other command materializes in this home, and keep others waiting while the block runs.

    Two commands at once would ask what is stale before either has made it, and both make it.
    """
    with exclusive_lock(_folder(instance) / "materializing", say):
        yield


@contextmanager
def exclusive_lock(path: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file, which is made, while the block runs; say so if another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say:
                say("waiting for another command that materializes in this home")
            interrupts.check()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _process_ended(path: Path) -> Iterator[bool]:
    """Whether the process of this file is gone; no other process finds so while the block runs."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # another command has just dealt with it
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path.exists()
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def fail_killed_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """End the runs whose process is gone, and free the pools that they held.

    Returns:
        Those runs, as they are now.
    """
    lost = []
    for path in sorted(_folder(instance).glob("*.lock")):
        with _process_ended(path) as gone:
            if gone:
                lost += [_failed(instance, run) for run in _unfinished(instance, path.stem)]
                path.unlink()
    return lost


def _unfinished(instance: dg.DagsterInstance, process: str) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(tags={PROCESS_TAG: process}, statuses=UNFINISHED)))


def _failed(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    instance.report_run_failed(run, "The process of this run was killed: start it again.")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return instance.get_run_by_id(run.run_id) or run


def cancel_own_runs(instance: dg.DagsterInstance) -> None:
    """End the runs that an interrupt left unfinished in this process, and free the pools that they held."""
    for run in _unfinished(instance, this_process(instance)):
        instance.report_run_canceled(run, "The command was interrupted.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def is_unknown(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether nothing is known of the command that makes this run, as on another machine."""
    process = run.tags.get(PROCESS_TAG)
    return process is not None and not (_folder(instance) / f"{process}.lock").exists()
