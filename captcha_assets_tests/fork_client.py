"""A process that stands for one that is forked elsewhere: see `fork_server`.

    python -IS fork_client.py ADDRESS ARGUMENT...

It imports nothing but the standard library, so that it starts at once.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType


def ask(
    connection: socket.socket,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
) -> tuple[int, Callable[[], int]]:
    """Ask for a process with these arguments, variables, standard input, output and error.

    Args:
        connection: to the server.
        arguments: of the process.
        environment: its variables.
        descriptors: its standard input, output and error.

    Returns:
        Its number, and what waits for its end and returns its exit status, below 0 for a signal.
    """
    socket.send_fds(connection, [b"."], list(descriptors))
    request = {"arguments": arguments, "environment": dict(environment), "folder": str(Path.cwd())}
    connection.sendall(json.dumps(request).encode() + b"\n")
    answers = connection.makefile("r")
    return int(answers.readline()), lambda: int(answers.readline())


def main(address: str, *arguments: str) -> None:
    """Ask for a process, pass signals on to it, and end as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        process, ended = ask(connection, arguments, os.environ, [0, 1, 2])

        def pass_on(number: int, _frame: FrameType | None) -> None:
            os.kill(process, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        status = ended()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
