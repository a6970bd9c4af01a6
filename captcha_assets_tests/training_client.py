"""A process that stands for a training that is forked elsewhere: see `training_server`.

    python -IS training_client.py ADDRESS NAME ARGUMENT...

It imports nothing but the standard library, so that it starts at once.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType


def main(address: str, _name: str, *arguments: str) -> None:
    """Ask for a training, pass signals on to it, and end as it does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"."], [0, 1, 2])
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
        connection.sendall(json.dumps(request).encode() + b"\n")
        answers = connection.makefile("r")
        training = int(answers.readline())

        def pass_on(number: int, _frame: FrameType | None) -> None:
            os.kill(training, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
