"""The service under 10, 64 and 256 users of locust: `make load-test`.

`python -m benchmarks.serving.load_test` starts the service over a resnet18 of full size, or takes the one at
`--url`, prints a table and writes a plot. Locust and the service share the cores.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import results
from benchmarks.results import Recording
from benchmarks.serving.__main__ import BIN, free_port, servers, started
from benchmarks.serving.model import make_home, png_files

USERS = (10, 64, 256)
FIGURES = {
    "requests/s": "Requests/s",
    "p50 ms": "50%",
    "p95 ms": "95%",
    "p99 ms": "99%",
    "requests": "Request Count",
    "failed": "Failure Count",
}


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """Return the address of a service: the one that is given, or one that is started."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as home:
        make_home(Path(home))
        ours, address = servers(port := free_port())[0], f"http://127.0.0.1:{port}"
        with started(ours, address + ours.path, png_files(1)[0], {**os.environ, "CAPTCHA_HOME": home}):
            yield address


def under(users: int, url: str, seconds: int) -> dict[str, float]:
    """Return the figures of so many users."""
    locustfile = Path(__file__).with_name("locustfile.py")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(BIN / "locust"), "-f", str(locustfile), "--host", url, "--headless", "--only-summary"]
        bounds = ["-u", str(users), "-r", str(users), "-t", f"{seconds}s", "--csv", f"{folder}/found"]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [*command, *bounds], env=environment, capture_output=True, text=True, check=False
        )
        if not Path(folder, "found_stats.csv").exists():
            sys.exit(f"locust failed:\n{done.stderr[-3000:]}")
        with Path(folder, "found_stats.csv").open() as file:
            (total,) = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
    return {name: float(total[column]) for name, column in FIGURES.items()}


def plot(found: dict[int, dict[str, float]], target: Path) -> None:
    """Draw throughput and times over the number of users."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    users = [str(number) for number in found]
    left.bar(users, [one["requests/s"] for one in found.values()], color="#2b8a8a")
    left.set(xlabel="users", ylabel="requests/s")
    for name in ("p50 ms", "p95 ms", "p99 ms"):
        right.plot(users, [one[name] for one in found.values()], marker="o", label=name.removesuffix(" ms"))
    right.set(xlabel="users", ylabel="milliseconds", ylim=(0, None))
    right.legend()
    figure.savefig(target, dpi=120)


def main() -> None:
    """Print the table, and write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="of a service that runs")
    parser.add_argument("--seconds", type=int, default=20, help="of each number of users")
    parser.add_argument("--plot", type=Path, default=Path("load-test.png"))
    results.add_option(parser)
    options, recording = (
        parser.parse_args(),
        Recording("benchmarks.serving.load_test", ("locust", "onnxruntime")),
    )
    found: dict[int, dict[str, float]] = {}
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}\n")
    print(f"| users | {' | '.join(FIGURES)} |\n|---{'|---' * len(FIGURES)}|", flush=True)
    with service(options.url) as url:
        for users in USERS:
            found[users] = under(users, url, options.seconds)
            print(f"| {users} | {' | '.join(f'{one:.0f}' for one in found[users].values())} |", flush=True)
    plot(found, options.plot)
    print(f"\nplot: {options.plot}")
    rows = [(users, *(f"{one:.0f}" for one in figures.values())) for users, figures in found.items()]
    recording.table("The service under users of locust", ("users", *FIGURES), rows)
    for users, figures in found.items():
        recording.claim(
            f"{users} users", f"requests a second of {users} users of locust, a resnet18 of full size",
            figures["requests/s"], "requests/s", better="more",
        )  # fmt: skip
    recording.write(options.result)


if __name__ == "__main__":
    main()
