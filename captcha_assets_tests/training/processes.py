"""Real training processes for tests, forked from one that has torch imported already."""

import os
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from captcha_assets_tests.forkserver import CONTEXT


def _to(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)


def run(job: Path, log: Path) -> None:
    """What a training process does."""
    from captcha_assets.training.__main__ import main

    _to(log)
    sys.exit(main([str(job)]))


def run_as_child(job: Path, log: Path) -> None:
    """Be the parent of a training process, and say its id on the log's first line."""
    child = os.fork()
    if child == 0:
        run(job, log)
    log.write_text(f"{child}\n")
    os.waitpid(child, 0)


def run_with(environment: dict[str, str], job: Path, log: Path) -> None:
    """What a training process does that is started with these variables."""
    os.environ |= environment
    run(job, log)


def run_with_little_memory(job: Path, log: Path) -> None:
    """What a training process does on a machine whose memory does not suffice."""
    import resource

    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 200 * 2**20,) * 2)
    run(job, log)


def run_as_rank(rank: int, port: int, job: Path, log: Path) -> None:
    """What one of the processes of a distributed training does that something else than Lightning started."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run(job, log)


def start(job: Path, log: Path, what: Callable[[Path, Path], None] = run) -> BaseProcess:
    """Start a training process; what it says is appended to `log`."""
    process = CONTEXT.Process(target=what, args=(job, log), daemon=False)
    process.start()
    return process


def finish(job: Path, log: Path, what: Callable[[Path, Path], None] = run) -> int:
    """Run a training process to its end and return its exit status."""
    process = start(job, log, what)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something that must happen; fail where it does not."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.01)
