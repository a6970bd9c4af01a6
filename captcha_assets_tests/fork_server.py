"""Processes that have libraries, and fork one process for each request: all of these share the imports.

    python -m captcha_assets_tests.fork_server MODULE DESCRIPTOR

serves the socket `DESCRIPTOR`. `MODULE` has two functions: `prepare()` imports the libraries, and
`run(*arguments)` is the work of a forked process. The workers of pytest-xdist share the servers that their
parent starts; a process that was given none starts its own when it first needs one.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from functools import cache
from pathlib import Path

from captcha_assets_tests import forked_process


def _variable(module: str) -> str:
    return f"TESTS_SERVER_{module.rpartition('.')[2].upper()}"


@cache
def address(module: str) -> str:
    """Return the address of the server of a module, which is started where there is none.

    It ends with the process that started it.
    """
    if given := os.environ.get(_variable(module)):
        return given
    place = tempfile.mkdtemp(prefix="server-")
    found = str(Path(place, "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(found)
        listener.listen(64)  # a client waits until the libraries are imported
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, module, str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    weakref.finalize(address, _stop, server, place)
    return found


def _stop(server: "subprocess.Popen[bytes]", place: str) -> None:
    server.communicate()
    Path(place, "socket").unlink(missing_ok=True)
    Path(place).rmdir()


def variables(*modules: str) -> dict[str, str]:
    """Return the variables by which another process uses the servers of this one."""
    return {_variable(module): address(module) for module in modules}


def _serve(connection: socket.socket, module: str) -> None:
    """Fork the process of a client, and tell the client how it ended; where the client ends, end it too."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    lines = connection.makefile("r")
    request = json.loads(lines.readline())
    child = os.fork()
    if child == 0:
        try:
            connection.close()
            forked_process.become(request["environment"], request["folder"], descriptors)
            importlib.import_module(module).run(*request["arguments"])
        finally:
            forked_process.end()
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection], [], [])[0]:
        os._exit(0)  # the child ends with its parent
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{status}\n".encode())


def main(module: str, descriptor: str) -> None:
    """Serve until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies are left
    importlib.import_module(module).prepare()
    gc.freeze()  # a collection in a forked process would copy every page of what is imported
    listener = socket.socket(fileno=int(descriptor))
    while sys.stdin not in select.select([sys.stdin, listener], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            _serve(connection, module)
            os._exit(0)
        connection.close()
    os._exit(0)  # libraries complain of what is left


if __name__ == "__main__":
    main(*sys.argv[1:])
