"""What Dagster adds: `python -m benchmarks.dagster`.

In a temporary home with one tiny batch: the time of a command that has nothing to do beside that of
importing Dagster, and of materializing `image_table` and `rejected_images` in this process beside that of the
library calls that do the work. Prints a table with ratios last; each figure is the fastest of some
repetitions, and CPU seconds stand beside the others because other people's load hardly moves them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import results
from benchmarks.results import Recording

IMAGES = 200
#: What a batch is taken through, models aside.
SELECTION = '+key:"splits"'


class Cost(NamedTuple):
    """Seconds on the wall and on the processor."""

    wall: float
    cpu: float


def command(*arguments: str, home: Path) -> Cost:
    """The cost of a process of its own, from its start to its end."""
    environment = {**os.environ, "CAPTCHA_HOME": str(home)}
    environment.pop("DAGSTER_HOME", None)
    began = time.perf_counter()
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}")
    return Cost(time.perf_counter() - began, usage.ru_utime + usage.ru_stime)


def here(work: Callable[[], object]) -> Cost:
    """The cost of some work in this process."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - began, time.process_time() - cpu)


def fastest(repeat: int, measure: Callable[[], Cost]) -> Cost:
    costs = [measure() for _ in range(repeat)]
    return Cost(min(cost.wall for cost in costs), min(cost.cpu for cost in costs))


def processes(home: Path, repeat: int) -> dict[str, Cost]:
    """What it costs to start, and to find out that there is nothing to do."""
    program = str(Path(sys.executable).with_name("captcha-assets"))
    commands = {
        "python, nothing else": (sys.executable, "-c", ""),
        "import dagster": (sys.executable, "-c", "import dagster"),
        "load the definitions": (sys.executable, "-c", "import captcha_assets.definitions as d; d.defs()"),
        "captcha-assets batch list": (program, "batch", "list"),
        "update --dry-run, nothing to do": (program, "update", "--dry-run", "--select", SELECTION),
        "update, nothing to do": (program, "update", "--select", SELECTION),
    }
    return {name: fastest(repeat, lambda c=parts: command(*c, home=home)) for name, parts in commands.items()}


def steps(home: Path, repeat: int) -> dict[str, Cost]:
    """One materialization in this process: the library's work alone, and the run that does it."""
    os.environ["CAPTCHA_HOME"] = str(home)
    os.environ.pop("DAGSTER_HOME", None)
    from captcha_assets.cli.orchestration import execution, staleness
    from captcha_assets.cli.orchestration.console_logger import with_quiet_console
    from captcha_assets.cli.orchestration.instance import open_instance
    from captcha_assets.dataset import CAPTCHA
    from captcha_assets.definitions import defs
    from captcha_assets.images.table import build_image_table
    from captcha_assets.quality import report, validation, validation_result
    from captcha_assets.settings import load_settings
    from captcha_assets.sources import batch_registration

    settings = load_settings()
    batch_registration.register(settings, "tiny", batch_registration.parse_source(f"synthetic:{IMAGES}:1"))
    table, rejected = settings.paths.image_table("tiny"), settings.paths.rejected_images("tiny")

    def library() -> None:
        build_image_table(settings.paths.raw / "tiny.zip", "tiny", table, rejected, CAPTCHA)
        found = validation.validate_image_table(table, rejected, CAPTCHA)
        validation_result.save(
            found, report.page(found), settings.paths.validation_results("image_table", "tiny")
        )

    definitions = with_quiet_console(defs())
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("batch", ["tiny"])
        for event in execution.update(definitions, instance, staleness.selected(SELECTION), {}):
            if isinstance(event, execution.Outcome) and event.error:
                raise SystemExit(f"{event.step} failed: {event.error}")
        step = staleness.Step(("image_table", "rejected_images"), "tiny")
        return {
            f"image_table of {IMAGES} images, library": fastest(repeat, lambda: here(library)),
            "the same as a run, two assets, eleven checks": fastest(
                repeat, lambda: here(lambda: execution.materialize(definitions, instance, step, {}))
            ),
            "stale or not, all of the data half": fastest(
                repeat,
                lambda: here(lambda: staleness.plan(definitions, instance, staleness.selected(SELECTION))),
            ),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dagster", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="repetitions (3); the fastest counts")
    results.add_option(parser)
    options = parser.parse_args()
    repeat, recording = options.repeat, Recording("benchmarks.dagster", ("dagster", "polars", "sqlalchemy"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        inside = steps(home, repeat)
        costs = processes(home, repeat) | inside
    print(f"{'':48}{'seconds':>10}{'CPU':>10}")
    for name, cost in costs.items():
        print(f"{name:48}{cost.wall:>10.2f}{cost.cpu:>10.2f}")
    library, run, _ = inside.values()
    imported, update = costs["import dagster"], costs["update, nothing to do"]
    ratios = {
        "update with nothing to do / import dagster": (update, imported),
        "a run / the library calls in it": (run, library),
    }
    print(f"\n{'times as long':48}{'seconds':>10}{'CPU':>10}")
    for name, (more, less) in ratios.items():
        print(f"{name:48}{more.wall / less.wall:>10.2f}{more.cpu / less.cpu:>10.2f}")
    added = f"{run.wall - library.wall:.2f} s on the wall, {run.cpu - library.cpu:.2f} s of CPU"
    print(f"a run adds {added}, of which nothing grows with the batch")
    rows = [(name, f"{cost.wall:.2f}", f"{cost.cpu:.2f}") for name, cost in costs.items()]
    recording.table("What it costs to start, and to do nothing", ("what", "seconds", "CPU, s"), rows)
    recording.claim(
        "update", "`captcha-assets update` with nothing to do", update.cpu, "CPU s", alternative=imported.cpu,
        alternative_name="`import dagster`, and nothing else",
    )  # fmt: skip
    recording.claim(
        "run", f"image_table of {IMAGES} images and its validation as a run: two assets, eleven checks",
        run.cpu, "CPU s", alternative=library.cpu, alternative_name="the calls of the library alone",
    )  # fmt: skip
    recording.write(options.result)


if __name__ == "__main__":
    main()
