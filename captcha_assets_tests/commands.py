"""The `captcha-assets` command, as a user types it: a process of its own, with its exit status."""

import os
import socket
import subprocess
import tempfile
from pathlib import Path

from captcha_assets_tests import fork_client, fork_server

#: Seconds that a command may take.
_LONGEST = 300
SERVERS = ("captcha_assets_tests.command_server", "captcha_assets_tests.training_server")


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a home, a new folder where there is none; return how it ended and what it said."""
    if not home.exists():
        home.mkdir(parents=True)
    variables = os.environ | fork_server.variables(*SERVERS) | {"CAPTCHA_HOME": str(home), "COLUMNS": "120"}
    variables.pop("DAGSTER_HOME", None)
    with (
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
        Path(os.devnull).open() as nothing,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        connection.settimeout(_LONGEST)
        connection.connect(fork_server.address(SERVERS[0]))
        descriptors = [file.fileno() for file in (nothing, output, errors)]
        _, ended = fork_client.ask(connection, arguments, variables | environment, descriptors)
        status = ended()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, status, output.read(), errors.read())


def succeeded(home: Path, *arguments: str, **environment: str) -> str:
    """Run a command that must succeed, and return what it printed."""
    done = run(home, *arguments, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
