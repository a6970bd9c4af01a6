"""Overload of the service for minutes: `python -m benchmarks.serving.overload [--minutes 10]`.

More connections than the queue takes send one image after the other, and connect again when they are
closed. Prints every half minute how many requests got which status, and the memory of the service (resident,
of all its processes); at the end, after how many seconds without load a request is answered 200 again, and
by how much memory grew from the second minute to the last.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

from benchmarks import results
from benchmarks.results import Recording
from benchmarks.serving.__main__ import FILES, free_port, load, servers, started
from benchmarks.serving.model import make_home, png_files


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--connections", type=int, default=512)
    results.add_option(parser)
    options, recording = parser.parse_args(), Recording("benchmarks.serving.overload", ("onnxruntime",))
    with tempfile.TemporaryDirectory() as folder:
        make_home(Path(folder))
        recovered, grown = overload(Path(folder), options.minutes * 60, options.connections)
    after = f"after {options.minutes:g} minutes of {options.connections} connections"
    recording.claim("recovery", f"a request is answered 200 again, {after}", recovered, "s")
    recording.claim("memory", f"memory from the second minute to the last, {after}", grown, "MB more")
    recording.write(options.result)


def overload(home: Path, seconds: float, connections: int) -> tuple[float, float]:
    """Send load to a service of this home, and print what came of it.

    Returns:
        Seconds until a request is answered 200 again, and the growth of the memory in MB.
    """
    files, port = png_files(FILES), free_port()
    server = servers(port)[0]
    url = f"http://127.0.0.1:{port}{server.path}"
    environment = {**os.environ, "CAPTCHA_HOME": str(home)}
    print("| minutes | 200 | 429 | others | MB |\n|---|---|---|---|---|")
    with started(server, url, files[0], environment) as process:
        began, memory = time.monotonic(), []
        for number in itertools.count(1):
            statuses: Counter[str] = Counter()
            while time.monotonic() < began + number * 30:
                statuses.update(load(server, url, files, connections, 5).statuses)
            memory.append(megabytes(process.pid))
            answered, rejected = statuses.pop("200", 0), statuses.pop("429", 0)
            row = (f"{number / 2:g}", f"{answered:,}", f"{rejected:,}", dict(statuses), f"{memory[-1]:.0f}")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
            if time.monotonic() >= began + seconds:
                break
        recovered = seconds_to_answer(url, files[0])
    grown = memory[-1] - memory[min(3, len(memory) - 1)]
    print(f"\n200 again {recovered:.2f} s after the load; memory grew by {grown:+.0f} MB")
    return recovered, grown


def megabytes(pid: int) -> float:
    """Return the resident memory of a process and those that it started."""
    process = psutil.Process(pid)
    found = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            found += one.memory_info().rss
    return found / 1e6


def seconds_to_answer(url: str, body: bytes) -> float:
    """Return how long it takes until a request is answered 200."""
    began = time.monotonic()
    while True:
        request = Request(url, body, {"Content-Type": "image/png"})
        with suppress(URLError, TimeoutError, ConnectionError), urlopen(request, timeout=10) as answer:
            if answer.status == 200:
                return time.monotonic() - began
        time.sleep(0.05)


if __name__ == "__main__":
    main()
