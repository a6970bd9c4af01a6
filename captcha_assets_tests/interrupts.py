"""Ctrl-C at random moments of a command: how often it is lost.

    python -m captcha_assets_tests.interrupts 250 [backfill] [update]

runs the commands so often each, both if none is named. A process that has all imports behind it forks for
each try, so that a try takes as long as the command's own work. The signal goes to the process alone, or to
all of its session as a terminal sends it.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMANDS = {
    "backfill": ["backfill", "raw_batch"],
    "update": ["update", "--select", "key:raw_batch"],
}
#: What a command says when all is made: a signal after that comes too late to be a try.
DONE = re.compile(rb"^\d+ made", re.MULTILINE)

#: What is said of an interrupt: with what was made, or by click where nothing has begun.
_NOTICED = re.compile("Error: interrupted|Aborted!")
_UNFINISHED = "select count(*) from runs where status not in ('SUCCESS', 'FAILURE', 'CANCELED')"


@dataclass(frozen=True)
class Ended:
    """How one try ended."""

    status: int
    said: str
    too_late: bool
    seconds: float

    @property
    def verdict(self) -> str:
        if self.too_late:
            return "too late"
        if self.status == 0:
            return "lost"
        if "Traceback" in self.said or "Exception ignored" in self.said:
            return "traceback"
        return "noticed" if self.status == 1 and _NOTICED.search(self.said) else f"status {self.status}"


def prepared(folder: Path) -> Path:
    """A home with four small batches, of which nothing is made yet."""
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.paths import Paths
    from captcha_assets.settings import Settings
    from captcha_assets.sources import registrations

    settings = Settings(paths=Paths(home=folder))
    for number in range(4):
        registrations.register(
            settings, f"batch-{number}", registrations.parse_source(f"synthetic:40:{number}")
        )
    with open_instance(settings):
        return folder


def imported() -> None:
    """Import what the commands import, so that forked processes need not."""
    from captcha_assets import cli, definitions  # noqa: F401
    from captcha_assets.cli.orchestration import backfills, console_logger, instance_status  # noqa: F401


def _become(arguments: list[str], home: Path, output: int, ready: int) -> None:
    """Be the command, in a forked process; say on `ready` that it begins."""
    from captcha_assets.cli import main

    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ["CAPTCHA_HOME"] = str(home)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    sys.argv = ["captcha-assets", *arguments]
    os.write(ready, b".")
    main()


def _forked(arguments: list[str], home: Path) -> tuple[int, int]:
    """Start a command; return, once it begins, its process id and where its output is read."""
    reader, writer = os.pipe()
    begun, ready = os.pipe()
    if process := os.fork():
        os.close(writer)
        os.close(ready)
        os.read(begun, 1)  # the signal is for the command, not for what prepares it
        os.close(begun)
        return process, reader
    status = 70
    try:
        _become(arguments, home, writer, ready)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        if (uncaught := sys.exc_info()[1]) is not None:
            sys.excepthook(type(uncaught), uncaught, uncaught.__traceback__)
        os._exit(status)  # the parent's finalizers are not the command's


def _read(reader: int, *, wait: bool) -> bytes:
    os.set_blocking(reader, wait)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 65536):
            said += piece
    return said


def attempt(arguments: list[str], home: Path, seconds: float | None, *, session: bool) -> Ended:
    """Run a command in `home`, interrupt it after so many seconds, and say how it ended."""
    process, reader = _forked(arguments, home)
    began = time.monotonic()
    said, too_late = b"", True
    if seconds is not None:
        time.sleep(seconds)
        send = os.killpg if session else os.kill
        send(process, signal.SIGSTOP)  # or it could end between the look at what it said and the signal
        os.waitid(os.P_PID, process, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        said = _read(reader, wait=False)
        too_late = DONE.search(said) is not None
        if not too_late:
            send(process, signal.SIGINT)
        send(process, signal.SIGCONT)
    said += _read(reader, wait=True)
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Ended(status, said.decode(errors="replace"), too_late, time.monotonic() - began)


def unfinished_runs(home: Path) -> int:
    """How many runs of a home have not come to an end."""
    with contextlib.closing(sqlite3.connect(home / ".dagster" / "history" / "runs.db")) as runs:
        return runs.execute(_UNFINISHED).fetchone()[0]


def left_processes(home: Path) -> list[str]:
    """The processes other than this one that work in a home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("CAPTCHA_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
    return found


def tries(command: str, number: int, folder: Path, chance: random.Random) -> Counter[str]:
    """Interrupt a command so often at random moments, and count how it ended."""
    template, home = prepared(folder / "template"), folder / "home"
    found: Counter[str] = Counter()

    def once(seconds: float | None) -> Ended:
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(template, home)
        return attempt(COMMANDS[command], home, seconds, session=chance.random() < 0.5)

    once(None)  # the first one fills the file system's cache
    takes = once(None).seconds
    while sum(found.values()) - found["too late"] < number:
        ended = once(chance.uniform(0, takes))
        verdict = ended.verdict
        if not ended.too_late and (unfinished_runs(home) or left_processes(home)):
            verdict += ", something left"
        found[verdict] += 1
        print(f"\r{command}: {dict(found)}", end="", file=sys.stderr, flush=True)
        if verdict not in ("noticed", "too late"):
            print(f"--- {command}: {verdict}, status {ended.status}\n{ended.said}", flush=True)
    return found


def main() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 250
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    imported()
    found = {}
    for command in sys.argv[2:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            found[command] = tries(command, number, Path(folder), random.Random(seed))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
