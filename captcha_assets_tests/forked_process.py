"""What a process does that a server of the tests forks, so that it is like one that was started by itself."""

import atexit
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import coverage


def become(environment: Mapping[str, str], folder: str, descriptors: Sequence[int]) -> None:
    """Take the variables, the working directory, standard input, output and error of another process."""
    atexit._clear()  # what libraries registered waits for threads that did not fork
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for standard, descriptor in enumerate(descriptors):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)


def end() -> None:
    """End the process with the status of the exception that ended its work, without libraries' finalizers."""
    kind, error, trace = sys.exc_info()
    status = error.code if isinstance(error, SystemExit) else 1
    if kind and error and not isinstance(error, SystemExit):
        sys.excepthook(kind, error, trace)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if measured := coverage.Coverage.current():
        measured.stop()
        measured.save()
    os._exit(status if isinstance(status, int) else int(bool(status)))
