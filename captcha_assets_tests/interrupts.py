"""Ctrl-C at random moments of a command: how often it is lost.

    python -m captcha_assets_tests.interrupts 250 [backfill] [update]

runs the commands so often each, both if none is named. Half of the signals come while a command works, half
while it still imports what it needs, too. They go to the process alone, or to all of its session as a
terminal sends them.
"""

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMANDS = {
    "backfill": ["backfill", "raw_batch"],
    "update": ["update", "--select", "key:raw_batch"],
}
#: What a command prints when all is materialized: a signal after that comes too late to be a try.
DONE = re.compile(rb"^\d+ materialized", re.MULTILINE)

#: Seconds after its signal within which a command must have ended.
DEADLINE = 120

#: The message of an interrupt: with how many were materialized, or click's own where nothing has begun.
_NOTICED = re.compile("Error: interrupted|Aborted!")
_UNFINISHED = "select count(*) from runs where status not in ('SUCCESS', 'FAILURE', 'CANCELED')"


@dataclass(frozen=True)
class Ended:
    """How one try ended."""

    status: int
    said: str
    too_late: bool

    @property
    def outcome(self) -> str:
        if self.too_late:
            return "too late"
        if self.status == 0:
            return "lost"
        if "Traceback" in self.said or "Exception ignored" in self.said:
            return "traceback"
        said_so = _NOTICED.search(self.said) is not None
        return "noticed" if said_so and self.status in (1, -signal.SIGINT) else f"status {self.status}"


def prepared(folder: Path) -> Path:
    """A home with four small batches, of which nothing is materialized yet."""
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.paths import Paths
    from captcha_assets.settings import Settings
    from captcha_assets.sources import batch_registration

    settings = Settings(paths=Paths(home=folder))
    for number in range(4):
        batch_registration.register(
            settings, f"batch-{number}", batch_registration.parse_source(f"synthetic:40:{number}")
        )
    with open_instance(settings):
        return folder


def _started(arguments: list[str], home: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command in a session of its own; return it, and where its output is read."""
    reader, writer = os.pipe()
    command = [str(Path(sys.executable).with_name("captcha-assets")), *arguments]
    environment = {
        **os.environ,
        "CAPTCHA_HOME": str(home),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(command, env=environment, stdout=writer, stderr=writer, start_new_session=True)
    os.close(writer)
    return process, reader


def _read(reader: int, *, wait: bool) -> bytes:
    os.set_blocking(reader, wait)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 65536):
            said += piece
    return said


def undisturbed(arguments: list[str], home: Path) -> tuple[float, float]:
    """Run a command to its end: the seconds until it said something, and those until it ended."""
    process, reader = _started(arguments, home)
    began = time.monotonic()
    select.select([reader], [], [])
    spoke = time.monotonic() - began
    _read(reader, wait=True)
    os.close(reader)
    assert process.wait() == 0
    return spoke, time.monotonic() - began


def attempt(arguments: list[str], home: Path, seconds: float, *, session: bool) -> Ended:
    """Run a command in `home`, interrupt it after so many seconds, and say how it ended."""
    process, reader = _started(arguments, home)
    time.sleep(seconds)
    send = os.killpg if session else os.kill
    send(process.pid, signal.SIGSTOP)  # or it could end between the look at what it said and the signal
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    said = _read(reader, wait=False)
    too_late = DONE.search(said) is not None
    if not too_late:
        send(process.pid, signal.SIGINT)
    send(process.pid, signal.SIGCONT)
    overdue = threading.Timer(DEADLINE, lambda: os.killpg(process.pid, signal.SIGABRT))  # shows all stacks
    overdue.start()
    said += _read(reader, wait=True)
    os.close(reader)
    status = process.wait()
    overdue.cancel()
    return Ended(status, said.decode(errors="replace"), too_late)


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

    def fresh() -> Path:
        shutil.rmtree(home, ignore_errors=True)
        return Path(shutil.copytree(template, home))

    undisturbed(COMMANDS[command], fresh())  # it fills the file system's cache
    spoke, takes = undisturbed(COMMANDS[command], fresh())
    while sum(found.values()) - found["too late"] < number:
        moment = chance.uniform(chance.choice((spoke / 4, spoke)), takes)
        ended = attempt(COMMANDS[command], fresh(), moment, session=chance.random() < 0.5)
        outcome = ended.outcome
        if not ended.too_late and (unfinished_runs(home) or left_processes(home)):
            outcome += ", something left"
        found[outcome] += 1
        # The machine is not always as busy as when the command was timed.
        takes = max(moment, spoke / 2) if ended.too_late else takes * 1.02
        print(f"\r{command}: {dict(found)}", end="", file=sys.stderr, flush=True)
        if outcome not in ("noticed", "too late"):
            print(f"--- {command}: {outcome}, status {ended.status}\n{ended.said}", flush=True)
    return found


def main() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 250
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    found = {}
    for command in sys.argv[2:] or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            found[command] = tries(command, number, Path(folder), random.Random(seed))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
