"""A command that is interrupted when the process that started it ends, however that ends.

`python -m captcha_assets.cli.parent_death_signal PID COMMAND...`, started by process PID, becomes COMMAND.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for the signal, and become the command."""
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != int(parent):  # it ended in between
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - a list, never a shell


if __name__ == "__main__":
    main()
