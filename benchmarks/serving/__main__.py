"""The service beside others that run the same session: `python -m benchmarks.serving [--help]`.

A resnet18 of full size runs on onnxruntime with as many threads as there are cores. First the session
alone: its best throughput over several batch sizes is the limit that no server exceeds. Then one server
after the other under 1, 10 and 64 connections that each send one PNG file after the other; load generator
and server share the cores. The limit moves with the machine's load: it is measured before and after each
load, and the ratio is that of the throughput to the limit around it. `CPU ms` is the server's CPU time for
one request, which depends less on what else runs on the machine. Takes about six minutes.
"""

import argparse
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import psutil

from benchmarks import results
from benchmarks.results import Recording
from benchmarks.serving.load import Load
from benchmarks.serving.model import VARIABLE, as_json, images, in_base64, make_home, png_files
from captcha_assets.models.predictor import OnnxPredictor

BIN = Path(sys.executable).parent
FILES = 64
SERVICE = "captcha-assets serve"
PACKAGES = ("bentoml", "fastapi", "granian", "litserve", "mosec", "numpy", "onnxruntime", "uvicorn")
COLUMNS = (
    "server", "connections", "requests/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "p50 over session",
    "CPU ms", "failed",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A server: how it is started, and how an image is sent to it."""

    name: str
    command: list[str]
    path: str
    as_what: str
    environment: dict[str, str]

    def bodies(self, files: list[bytes]) -> list[bytes]:
        forms = {
            "image/png": lambda file: file,
            "image": lambda file: as_json({"image": in_base64(file)}),
            "images": lambda file: as_json({"images": [in_base64(file)]}),
        }
        return [forms[self.as_what](file) for file in files]

    @property
    def content_type(self) -> str:
        return "image/png" if self.as_what == "image/png" else "application/json"


def servers(port: int) -> list[Server]:
    """All servers of the comparison; the service comes first, with its log and without."""
    python, number = sys.executable, str(port)
    ours = [str(BIN / "captcha-assets"), "serve", "--port", number]
    return [
        Server(SERVICE, ours, "/v1/predict", "image/png", {}),
        Server(
            "captcha-assets serve, with its log off",
            ours,
            "/v1/predict",
            "image/png",
            {"CAPTCHA_SERVING_PREDICTION_LOG": "off"},
        ),
        Server(
            "captcha-assets serve on granian (uvicorn otherwise)",
            [python, "-m", "benchmarks.serving.granian_server", number],
            "/v1/predict",
            "image/png",
            {},
        ),
        Server(
            "mosec",
            [python, "-m", "benchmarks.serving.mosec_server", "--port", number, "--address", "127.0.0.1"],
            "/inference",
            "image/png",
            {},
        ),
        Server(
            "LitServe",
            [python, "-m", "benchmarks.serving.litserve_server", number],
            "/predict",
            "image",
            {},
        ),
        Server(
            "BentoML",
            [str(BIN / "bentoml"), "serve", "benchmarks.serving.bentoml_server:Service", "--port", number],
            "/predict",
            "images",
            {"BENTOML_DO_NOT_TRACK": "True"},
        ),
    ]


# --- the session alone


@dataclass(frozen=True)
class Limit:
    """What the session does alone."""

    per_second: float
    batch_size: int
    one_ms: float
    """Median for one image."""
    cpu_ms: float
    """CPU time for one image of a batch."""


def limit(predictor: OnnxPredictor, pixels: np.ndarray, seconds: float) -> Limit:
    """Measure the session: the best of several batch sizes, and one image alone."""
    rates = {size: _rate(predictor, pixels[:size], seconds) for size in (8, 16, 32, 64)}
    best = max(rates, key=lambda size: rates[size][0])
    times = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        predictor.predict(pixels[:1])
        times.append(time.perf_counter() - started)
    per_second, cpu_ms = rates[best]
    return Limit(per_second, best, float(np.median(times)) * 1000, cpu_ms)


def _rate(predictor: OnnxPredictor, batch: np.ndarray, seconds: float) -> tuple[float, float]:
    """Return images a second, and milliseconds of CPU time for one."""
    predictor.predict(batch)
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        predictor.predict(batch)
        done += len(batch)
    return done / elapsed, (time.process_time() - cpu) / done * 1000


# --- a server


@contextmanager
def started(
    server: Server, url: str, body: bytes, environment: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server until the block ends; the block begins when it has answered."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            server.command,
            env={**environment, **server.environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            if not _answers(process, url, body, server.content_type):
                output.seek(0)
                sys.exit(f"{server.name} does not answer:\n{output.read().decode()[-3000:]}")
            yield process
        finally:
            _end(process)


def _answers(process: "subprocess.Popen[bytes]", url: str, body: bytes, content_type: str) -> bool:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with suppress(URLError, ConnectionError, TimeoutError):
            request = Request(url, body, {"Content-Type": content_type})
            if urlopen(request, timeout=10).status == 200:
                return True
        time.sleep(0.3)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and the processes that it started: they are a session of their own."""
    for number, seconds in ((signal.SIGINT, 15), (signal.SIGKILL, 5)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def load(server: Server, url: str, files: list[bytes], connections: int, seconds: float) -> Load:
    """Send load from a process of its own."""
    given = {
        "url": url,
        "bodies": [base64.b64encode(body).decode() for body in server.bodies(files)],
        "content_type": server.content_type,
        "connections": connections,
        "seconds": seconds,
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.load"],
        input=json.dumps(given), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Load(**json.loads(done.stdout))


# --- the comparison


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cpu_seconds(process: "subprocess.Popen[bytes]") -> float:
    """Return the CPU time of a server and of the processes that it started."""
    root = psutil.Process(process.pid)
    times = [one.cpu_times() for one in [root, *root.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def row(server: Server, found: Load, cpu: float, around: float, one_ms: float) -> list[str]:
    """Return the cells of a row of the table."""
    times = [f"{found.milliseconds[name]:.1f}" for name in ("p50", "p95", "p99")]
    beyond = f"{found.milliseconds['p50'] - one_ms:+.1f} ms" if found.connections == 1 else ""
    ratio = f"{found.per_second / around:.2f}"
    cells = [server.name, found.connections, f"{found.per_second:.0f}", ratio, *times, beyond]
    cells += [f"{cpu / max(found.answered, 1) * 1000:.2f}", found.failed]
    return list(map(str, cells))


def recorded(recording: Recording, rows: list[list[str]]) -> None:
    """Record the service beside each of the others with 10 connections, and all figures as a table."""
    figures = {row[0]: row for row in rows if row[1] == "10"}
    kinds = [("CPU ms", "CPU time for one request", "less"), ("requests/s", "requests a second", "more")]
    for column, what, better in kinds:
        place = COLUMNS.index(column)
        for name in figures:
            if name != SERVICE and SERVICE in figures:
                ours, other = (float(figures[one][place]) for one in (SERVICE, name))
                recording.claim(
                    f"{name}, {column}", f"{what}, 10 connections", ours, column, alternative=other,
                    alternative_name=name, better=better,
                )  # fmt: skip
    recording.table("All of them", COLUMNS, rows)


def main() -> None:
    """Print the table of docs/serving.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--only", help="servers whose name holds this")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 10, 64])
    results.add_option(parser)
    options, recording = parser.parse_args(), Recording("benchmarks.serving", PACKAGES)
    with tempfile.TemporaryDirectory() as home:
        recorded(recording, compare(Path(home), options))
    recording.write(options.result)


def compare(home: Path, options: argparse.Namespace) -> list[list[str]]:
    """Measure each server, and print and return its rows."""
    rows = []
    exported, files, pixels = make_home(home), png_files(FILES), images(FILES)
    predictor = OnnxPredictor(exported)
    environment = {**os.environ, "CAPTCHA_HOME": str(home), VARIABLE: str(exported)}
    before = limit(predictor, pixels, options.seconds / 5)
    cores = len(os.sched_getaffinity(0))
    print(
        f"{cores} cores, load of the machine {os.getloadavg()[0]:.1f}; the session alone: "
        f"{before.per_second:.0f} images/s with {before.batch_size} at once ({before.cpu_ms:.2f} ms of CPU "
        f"time each), {before.one_ms:.2f} ms for one\n"
    )
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for server in servers(port := free_port()):
        if options.only and options.only not in server.name:
            continue
        url = f"http://127.0.0.1:{port}{server.path}"
        with started(server, url, server.bodies(files)[0], environment) as process:
            load(server, url, files, 10, options.seconds / 5)  # warm
            for connections in options.connections:
                cpu = cpu_seconds(process)
                found = load(server, url, files, connections, options.seconds)
                cpu = cpu_seconds(process) - cpu
                after = limit(predictor, pixels, options.seconds / 10)
                around = (before.per_second + after.per_second) / 2
                rows.append(row(server, found, cpu, around, (before.one_ms + after.one_ms) / 2))
                print(f"| {' | '.join(rows[-1])} |", flush=True)
                before = after
    return rows


if __name__ == "__main__":
    main()
