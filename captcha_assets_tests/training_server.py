"""A process that has the libraries of a training, and forks one for each that Dagster starts here.

A training by itself imports torch and Lightning for five seconds, which is longer than most trainings of the
tests take. Dagster starts `training_client.py` in its place, a process that lives as long as the training:
it passes signals on and ends as the training does. Tests of the process itself start the real command.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from captcha_assets.defs.compute import local_compute
from captcha_assets_tests import forked_process

#: The command of a training that is not forked.
REAL = local_compute.COMMAND

_CLIENT = Path(__file__).with_name("training_client.py")
#: Variable of a process that a server of another one serves.
_ADDRESS = "TESTS_TRAINING_SERVER"


class _Command:
    """The command of a training here; the server is started when the first one is."""

    def __iter__(self) -> Iterator[str]:
        return iter((sys.executable, "-IS", str(_CLIENT), address(), "captcha_assets.training"))


def use() -> None:
    """Let the trainings of this process be forked."""
    local_compute.COMMAND = _Command()


@cache
def address() -> str:
    """The address of the server, which is started where none was; it ends with the process that did so."""
    if given := os.environ.get(_ADDRESS):
        return given
    place = tempfile.mkdtemp(prefix="training-")
    found = str(Path(place, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(found)
        listener.listen(64)  # a client waits until the libraries are imported
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    weakref.finalize(address, _stop, server, place)
    return found


def _stop(server: "subprocess.Popen[bytes]", place: str) -> None:
    server.communicate()
    Path(place, "socket").unlink(missing_ok=True)
    Path(place).rmdir()


def variables() -> dict[str, str]:
    """The variables by which another process uses the server of this one."""
    return {_ADDRESS: address()}


def _serve(connection: socket.socket) -> None:
    """Fork the training of a client, and tell the client how it ended; where the client ends, end it too."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    lines = connection.makefile("r")
    request = json.loads(lines.readline())
    child = os.fork()
    if child == 0:
        try:
            connection.close()
            _train(request, descriptors)
        finally:
            forked_process.end()
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        os._exit(0)  # the training ends with its parent
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{status}\n".encode())


def _train(request: dict[str, Any], descriptors: list[int]) -> None:
    forked_process.become(request["environment"], request["folder"], descriptors)
    sys.argv = ["captcha_assets.training", *request["arguments"]]
    runpy.run_module("captcha_assets.training", run_name="__main__", alter_sys=True)


def main(descriptor: str) -> None:
    """Serve until nobody asks any more."""
    import captcha_assets.training.fit  # noqa: F401

    gc.freeze()  # a collection in a forked process would copy every page of what is imported
    listener = socket.socket(fileno=int(descriptor))
    while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            _serve(connection)
            os._exit(0)
        connection.close()


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies are left
    main(*sys.argv[1:])
