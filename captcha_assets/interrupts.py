"""Interrupts (Ctrl-C, SIGTERM) of a command, none of which is lost.

Dagster puts its own handlers in place of a process's while it executes a run, and drops an interrupt that
arrives while none of the assets' own code runs. Python drops one that is raised in a finalizer. So each
signal is also recorded below all handlers, in a pipe that the interpreter itself writes to
(`signal.set_wakeup_fd`), and a command asks for it before and after each step.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)


class _Record:
    """The signals of this process that were received since `record`."""

    def __init__(self) -> None:
        self._reader: int | None = None
        self._received = False

    def begin(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def end(self) -> None:
        signal.set_wakeup_fd(-1)
        self._reader = None

    @property
    def is_on(self) -> bool:
        return self._reader is not None

    @property
    def received(self) -> bool:
        if self._reader is not None:
            try:
                numbers = os.read(self._reader, 4096)
            except BlockingIOError:  # nothing was written since the last time
                numbers = b""
            self._received |= any(number in _STOPS for number in numbers)
        return self._received

    def forget(self) -> None:
        _ = self.received  # takes what is in the pipe out of it
        self._received = False


_record = _Record()


def record() -> None:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM, and record each, until this process ends.

    A signal that this process was started to ignore (by `nohup`, or in the background) is ignored.
    """
    _record.begin()
    os.register_at_fork(after_in_child=_forget)
    for number in _STOPS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _unless_interrupted(sys.unraisablehook)
    if (
        logging.lastResort is not None
    ):  # libraries log what they do not raise, as the pool of connections does
        logging.lastResort.addFilter(lambda _: not received())


def received() -> bool:
    """Whether this process was interrupted, whatever became of the exception."""
    return _record.received


def check() -> None:
    """Raise KeyboardInterrupt if this process was interrupted, whatever became of the first one.

    To be called before a long wait too. Polars puts a handler over Python's when it is imported, after which
    the system goes on with a wait that was interrupted, and Python sees the signal when the wait is over.
    """
    if _record.is_on and threading.current_thread() is threading.main_thread():
        for number in _STOPS:
            signal.siginterrupt(number, True)
    if received():
        raise KeyboardInterrupt


def answered() -> None:
    """Take the interrupts until now for answered: they are how this command is meant to be ended."""
    _record.forget()


def ignore() -> None:
    """Ignore interrupts from now on: the process ends by itself in a moment."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _forget() -> None:
    """Stop recording in a forked process, whose signals are not the command's."""
    _record.end()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _unless_interrupted(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a hook that is silent about finalizers that an interrupt stopped."""

    def silenced(unraisable: Any) -> None:
        if not received():
            hook(unraisable)

    return silenced
