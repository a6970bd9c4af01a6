"""The process of the command: its standard files, its interrupts, and how it ends."""

import atexit
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TextIO

import click

from captcha_assets import interrupts
from captcha_assets.cli.errors import in_one_line, unexpected
from captcha_assets.settings_validation import debugging

INTERRUPTED = "interrupted"
STANDARD_OUTPUT = "standard output"


class Interrupted(click.ClickException):
    """The command was interrupted; the message says how to go on, where that is known."""

    def __init__(self, message: str = INTERRUPTED) -> None:
        super().__init__(message)


@contextmanager
def owned() -> Iterator[None]:
    """Run a command that has this process for itself, and end the process.

    No traceback is shown for an interrupt, a closed pipe, a full disk or a defect (but with
    CAPTCHA_DEBUG=1). An interrupt that nothing noticed still decides the exit status.
    """
    _open_standard_files()
    if not sys.warnoptions and not debugging():
        warnings.simplefilter("ignore")  # they are for developers
    sys.excepthook = _said_in_one_line
    interrupts.record()
    try:
        yield
    except SystemExit as end:
        interrupts.ignore()
        if interrupts.received() and not end.code:
            click.echo(f"Error: {INTERRUPTED} after all was done", err=True)
            end.code = 1
        if not _flushed() and not end.code:
            end.code = 1
        if interrupts.received():
            _leave(end.code)
        raise


def _leave(status: object) -> NoReturn:
    """End an interrupted process without taking the interpreter apart.

    The threads of libraries are in the midst of their work, and one that returns to an interpreter that is
    half gone ends the process with a fatal error.
    """
    atexit._run_exitfuncs()  # noqa: SLF001 - what would run anyway, and has no public name
    os._exit(status if isinstance(status, int) else 1)


def _open_standard_files() -> None:
    """Open the standard files that were closed: the first file opened otherwise gets what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    nothing = Path(os.devnull)
    sys.stdin = sys.stdin or nothing.open()
    sys.stderr = sys.stderr or nothing.open("w")
    sys.stdout = _StandardOutput(sys.stdout) if sys.stdout else nothing.open("w")


class _StandardOutput(io.TextIOWrapper):
    """Standard output whose errors name it, as those of opened files do.

    What is below stays the interpreter's own: it knows what was written when a signal arrives meanwhile.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(
            stream.buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=stream.isatty()
        )
        self._stream = stream  # it would close the buffer when nothing refers to it

    def write(self, text: str) -> int:
        with _named():
            return super().write(text)

    def flush(self) -> None:
        with _named():
            super().flush()


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def _flushed() -> bool:
    """Write what is left to write; where that fails, leave the interpreter nothing to fail at."""
    failed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            failed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return not failed


def _said_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook of exceptions that nothing caught: what gets here is a defect, or comes very late."""
    if debugging():
        sys.__excepthook__(kind, error, trace)
    elif interrupts.received() or isinstance(error, KeyboardInterrupt):
        click.echo(f"Error: {INTERRUPTED}", err=True)
    elif isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
        click.echo(f"Error: {in_one_line(error)}", err=True)
    else:
        click.echo(f"Error: {unexpected(error)}", err=True)
    _flushed()
