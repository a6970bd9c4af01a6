"""The process of the command: its standard files, its interrupts, and how it ends."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

import click

from captcha_assets import interrupts
from captcha_assets.cli.errors import in_one_line, unexpected

INTERRUPTED = "interrupted"
STANDARD_OUTPUT = "standard output"


@contextmanager
def owned() -> Iterator[None]:
    """Run a command that has this process for itself, and end the process.

    No traceback is shown for an interrupt, a closed pipe, a full disk or a defect (but with
    CAPTCHA_DEBUG=1). An interrupt that nothing noticed still decides the exit status.
    """
    _open_standard_files()
    if sys.stdout is not None:
        sys.stdout = _with_named_errors(sys.stdout)
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
        raise


def _open_standard_files() -> None:
    """Have the descriptors 0, 1 and 2 open: the first file opened otherwise gets what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


class _Named(io.FileIO):
    """A file whose errors name it, as those of opened files do."""

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = title

    def write(self, data: Any) -> Any:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._title) from None


def _with_named_errors(stream: TextIO) -> TextIO:
    """The same standard output, whose errors name it."""
    buffer = io.BufferedWriter(_Named(stream.fileno(), STANDARD_OUTPUT))
    return io.TextIOWrapper(
        buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=stream.isatty()
    )


def _flushed() -> bool:
    """Write what is left to write; where that fails, leave the interpreter nothing to fail at."""
    failed = False
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # it was closed when the process began
            continue
        try:
            stream.flush()
        except OSError:
            failed = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return not failed


def _said_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The hook of exceptions that nothing caught: what gets here is a defect, or comes very late."""
    if os.environ.get("CAPTCHA_DEBUG"):
        sys.__excepthook__(kind, error, trace)
    elif interrupts.received() or isinstance(error, KeyboardInterrupt):
        click.echo(f"Error: {INTERRUPTED}", err=True)
    elif isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
        click.echo(f"Error: {in_one_line(error)}", err=True)
    else:
        click.echo(f"Error: {unexpected(error)}", err=True)
    _flushed()
