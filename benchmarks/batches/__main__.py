"""What a batch more costs a home of many: `python -m benchmarks.batches [BATCHES ...]`.

Grows one home, in a temporary folder, to each number of batches (default 250, 500, 1000 and 2000; a batch
holds 8 images) and measures, on the processor, what runs again and again: the plan of `update` and `status`,
the ticks of the sensors, and an update that has one batch more to take in. Prints seconds, and last what a
batch more costs between the two largest sizes, and how many times that is what it costs between the two
smallest: 1.0 means that it does not grow.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from benchmarks import results
from benchmarks.batches.home import SELECTION, Home, archives
from benchmarks.results import Recording
from captcha_assets.cli.orchestration import instance_status, staleness
from captcha_assets.dataset import CAPTCHA
from captcha_assets.defs.automation_history import automation_history
from captcha_assets.defs.observed_sources import observed_sources
from captcha_assets.defs.source.inbox_sensor import inbox_sensor

SIZES = [250, 500, 1000, 2000]


def seconds(work: Callable[[], object]) -> float:
    """Processor's seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def tick(home: Home, sensor: dg.SensorDefinition) -> None:
    """Evaluate a sensor as its daemon does."""
    resources = {"settings": home.settings}
    needed = {name: resources[name] for name in sensor.required_resource_keys}
    with dg.build_sensor_context(home.instance, resources=needed, definitions=home.definitions) as context:
        sensor(context)


def automation_tick(home: Home) -> None:
    """Evaluate the automation conditions of all assets, from the first time on."""
    dg.evaluate_automation_conditions(home.definitions, home.instance)


def measured(home: Home) -> dict[str, float]:
    """What each thing costs now, with nothing to do."""
    selection = staleness.selected(SELECTION)
    works: dict[str, Callable[[], object]] = {
        "update --dry-run": lambda: staleness.plan(home.definitions, home.instance, selection),
        "update, nothing to do": home.update,
        "status": lambda: instance_status.look(home.settings, CAPTCHA, home.definitions, home.instance),
        "sensor observed_sources": lambda: tick(home, observed_sources),
        "sensor inbox_sensor": lambda: tick(home, inbox_sensor),
        "sensor automation_history": lambda: tick(home, automation_history),
        "automation conditions": lambda: automation_tick(home),
    }
    return {name: seconds(work) for name, work in works.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("batches", type=int, nargs="*", default=SIZES, help="numbers of batches, growing")
    results.add_option(parser)
    options = parser.parse_args()
    sizes, recording = options.batches, Recording("benchmarks.batches", ("dagster", "polars", "sqlalchemy"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "home"
        folder.mkdir()
        os.environ["CAPTCHA_HOME"] = str(folder)
        os.environ.pop("DAGSTER_HOME", None)
        zips = archives(Path(name) / "archives", sizes[-1] + 1)
        home, there = Home(folder), 1
        found: dict[int, dict[str, float]] = {}
        home.add_really(zips[0])
        for size in sizes:
            making = seconds(lambda: home.add_as_if(zips[there:size])) / max(1, size - there)  # noqa: B023
            indexing = seconds(home.update)
            home.register(zips[size])
            one_more = seconds(home.update)
            there = size + 1
            found[size] = {
                "register and make a batch's files": making,
                "update, index and splits": indexing,
                "update with one batch more": one_more,
                **measured(home),
            }
            print(size, found[size], flush=True)
    show(found)
    recorded(recording, found)
    recording.write(options.result)


def recorded(recording: Recording, found: dict[int, dict[str, float]]) -> None:
    """Record what each thing costs at each size, and a batch more at the largest."""
    sizes = list(found)
    rows = [(name, *(f"{found[size][name]:.2f}" for size in sizes)) for name in found[sizes[0]]]
    columns = ["CPU seconds at so many batches", *(f"{size:,}" for size in sizes)]
    recording.table("What runs again and again, by the number of batches", columns, rows)
    if len(sizes) > 2:
        for name in ("status", "update, nothing to do"):
            first, last = (
                1000 * (found[after][name] - found[before][name]) / (after - before)
                for before, after in (sizes[:2], sizes[-2:])
            )
            recording.claim(
                name, f"`{name}`: a batch more, from {sizes[-2]:,} batches on", last, "CPU ms",
                alternative=first, alternative_name=f"from {sizes[0]:,} on",
            )  # fmt: skip


def show(found: dict[int, dict[str, float]]) -> None:
    sizes = list(found)
    print(f"{'CPU seconds at so many batches':36}", *(f"{size:>9,}" for size in sizes), f"{'a batch':>12}")
    for name in found[sizes[0]]:
        row = [found[size][name] for size in sizes]
        slopes = [
            (after - before) / (size - last)
            for before, after, last, size in zip(row, row[1:], sizes, sizes[1:], strict=False)
        ]
        growth = f"{1000 * slopes[-1]:.2f} ms, {slopes[-1] / slopes[0]:.1f}x" if len(sizes) > 2 else ""
        print(f"{name:36}", *(f"{one:>9.2f}" for one in row), f"{growth:>18}")


if __name__ == "__main__":
    main()
