"""`python -m MODULE` in a process of the fork server, which has the heavy libraries already."""

import os
import runpy
import sys
from pathlib import Path

from captcha_assets_tests.forkserver import CONTEXT


def _run(module: str, arguments: tuple[str, ...], output: Path) -> None:
    written = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(written, 1)
    os.dup2(written, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_module(module: str, *arguments: str, output: Path) -> int:
    """Run a module with arguments; what it prints goes to a file. Returns the exit status."""
    process = CONTEXT.Process(target=_run, args=(module, arguments, output))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode
