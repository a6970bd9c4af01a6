"""The `captcha-assets` command, as a user types it: a process of its own, with its exit status."""

import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock

from captcha_assets_tests import training_server

_LOCK = Lock()
#: Seconds that a command may take.
_LONGEST = 300


@cache
def _server() -> "subprocess.Popen[str]":
    """The process that forks the commands; it ends with this one, which holds its standard input."""
    command = [sys.executable, "-m", "captcha_assets_tests.command_server"]
    environment = os.environ | training_server.variables()
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a home, a new folder where there is none; return how it ended and what it said."""
    if not home.exists():
        home.mkdir(parents=True)
    variables = os.environ | training_server.variables() | {"CAPTCHA_HOME": str(home), "COLUMNS": "120"}
    variables.pop("DAGSTER_HOME", None)
    with tempfile.TemporaryDirectory() as folder, _LOCK:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        request = {
            "arguments": arguments,
            "environment": variables | environment,
            "folder": str(Path.cwd()),
            "output": str(output),
            "errors": str(errors),
        }
        server = _server()
        assert server.stdin
        assert server.stdout
        print(json.dumps(request), file=server.stdin, flush=True)
        assert select.select([server.stdout], [], [], _LONGEST)[0], f"no end after {_LONGEST} s: {arguments}"
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def succeeded(home: Path, *arguments: str, **environment: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    done = run(home, *arguments, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
