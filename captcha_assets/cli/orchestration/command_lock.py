"""The file that a command keeps locked while it executes runs, and the lock of commands that materialize.

What the file is for: see `captcha_assets.defs.killed_runs`.
"""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from captcha_assets import locks
from captcha_assets.defs.killed_runs import PROCESS_TAG, process_folder, unfinished_runs
from captcha_assets.paths import Paths

#: The locked file of this process (its id guards against a fork) in each Dagster home.
_own: dict[tuple[Path, int], Path] = {}


def this_process(instance: dg.DagsterInstance) -> str:
    """The value of `PROCESS_TAG` for this process, whose file is locked from now on until it ends."""
    key = (process_folder(instance), os.getpid())
    if key not in _own:
        _own[key] = _new_locked_file(key[0])
    return _own[key].stem


def _new_locked_file(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{secrets.token_hex(8)}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():  # another process may have deleted it, as left behind, between the two calls
            return path
        os.close(descriptor)


@contextmanager
def alone(paths: Paths, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other command materializes in this home, and keep others waiting while the block runs.

    Without it, two commands at once would both find the same assets stale, and both materialize them. Hosts
    that share a database are one home.
    """
    with locks.exclusive(
        paths, "_materializing", lambda: say("waiting for another command that materializes in this home")
    ):
        yield


def cancel_own_runs(instance: dg.DagsterInstance) -> None:
    """End the runs that an interrupt left unfinished in this process, and free the pools that they held."""
    for run in unfinished_runs(instance, this_process(instance)):
        instance.report_run_canceled(run, "The command was interrupted.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def is_unknown(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the command that executes this run is unknown here, as where it runs on another machine."""
    process = run.tags.get(PROCESS_TAG)
    return process is not None and not (process_folder(instance) / f"{process}.lock").exists()
