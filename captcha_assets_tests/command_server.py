"""A process that forks a `captcha-assets` command for every request, so that all of them share its imports.

    python -m captcha_assets_tests.command_server

reads one JSON object a line, `{"arguments", "environment", "folder", "output", "errors"}`, and answers each
with the exit status of the command. What a command prints goes to the files `output` and `errors`.
"""

import atexit
import gc
import json
import os
import signal
import sys
from typing import Any

import coverage


def _import_all() -> None:
    """Import what the commands import, but for torch."""
    import great_expectations  # noqa: F401

    from captcha_assets import definitions
    from captcha_assets.cli import main  # noqa: F401
    from captcha_assets.cli.orchestration import backfills, execution, instance_status  # noqa: F401
    from captcha_assets_tests import dagster_storage

    dagster_storage.reuse()
    definitions.defs()
    gc.freeze()  # a collection in a forked process would copy every page of what is imported


def _become(request: dict[str, Any]) -> None:
    """Be the command, in a forked process, as if it had been started by itself."""
    from captcha_assets.cli import main

    atexit._clear()  # what libraries registered waits for threads that did not fork
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for descriptor, path in ((1, request["output"]), (2, request["errors"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["__main__"].__package__ = None  # by it, click would call the command "python -m ..."
    sys.argv = ["captcha-assets", *request["arguments"]]
    main()


def _end() -> None:
    """End the forked process with the exit status of the command, without the finalizers of libraries."""
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


def main() -> None:
    """Answer requests until nobody asks any more."""
    _import_all()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                _become(json.loads(line))
            finally:
                _end()
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()
