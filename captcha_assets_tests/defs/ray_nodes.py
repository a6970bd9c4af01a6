"""A real Ray cluster for tests: a head and two workers, as processes of this machine."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from captcha_assets_tests.training.processes import wait_until

RAY = str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all of them different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def ray_node(log: Path, variables: dict[str, str], *options: str) -> Iterator[None]:
    """Run a Ray node, with all its processes; Ray gives up where they do not start within 30 seconds."""
    command = [
        RAY, "start", "--block", "--disable-usage-stats", "--include-log-monitor=false",
        "--object-store-memory=100000000", *options,
    ]  # fmt: skip
    # A job's entry point is `python`.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **variables, "PATH": path}
    for _attempt in range(3):
        with log.open("w") as output:
            # Elsewhere than in the repository: a job finds the package that was sent to it, not this one.
            node = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=output)
        try:
            if starts(node, log):
                yield
                return
        finally:
            end(node)
    pytest.fail(f"the Ray node did not start: {log.read_text()[-1000:]}")


def starts(node: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until a node has started or given up, and say which."""
    wait_until(lambda: "Ray runtime started" in log.read_text() or node.poll() is not None, 180)
    return node.poll() is None


def end(node: subprocess.Popen[bytes]) -> None:
    """End a node and everything that it started."""
    try:
        processes = psutil.Process(node.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        processes = []
    node.terminate()
    psutil.wait_procs(processes, timeout=10)
    for process in processes:
        if process.is_running():
            process.kill()
    node.kill()
    node.wait()


@contextmanager
def ray_cluster(variables: dict[str, str]) -> Iterator[str]:
    """Run a head that executes no jobs, and two workers of one CPU each; yield the address of the job API.

    Args:
        variables: of the environment of the nodes.
    """
    # The path of a Unix socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        place, (gcs, dashboard, client, *agents) = Path(name), free_ports(6)
        ports = [f"--dashboard-agent-listen-port={port}" for port in agents]
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--temp-dir={place}/t"]
        head += ["--num-cpus=0", f"--ray-client-server-port={client}"]
        worker = [f"--address=127.0.0.1:{gcs}", "--num-cpus=1"]
        with (
            ray_node(place / "head.log", variables, *head, ports[0]),
            ray_node(place / "first.log", variables, *worker, ports[1]),
            ray_node(place / "second.log", variables, *worker, ports[2]),
        ):
            yield f"http://127.0.0.1:{dashboard}"
