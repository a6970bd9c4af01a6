"""1,000 more images onto many: `python -m benchmarks.ingest.growth [ROWS ...]`.

Index, splits and their validation of ROWS images (the tables of `benchmarks.ingest.scaling`) and then of
1,000 more: the parts that change, and beside it the whole tables from nothing with the same record of
assignments. The result has to be the same. Prints seconds on the wall and on the processor, the highest
memory of the process, and the ratio of the processor's seconds.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.ingest.scaling import SCRATCH, batch, batches, build_missing
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table_parts import version_of
from captcha_assets.quality import validation_result
from captcha_assets.quality.validation import validate_image_index, validate_splits

SIZES = [118_000]
NEW = 1_000


class Home:
    """Index, splits, record and validation results in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index, self.splits = folder, folder / "image_index", folder / "splits"
        self.record = AssignmentRecord(folder / "record", folder / "scratch")

    def update(self, tables: dict[str, Path]) -> dict[str, tuple[float, float]]:
        """Bring everything up to date; return seconds of each step on the wall and on the processor."""
        took: dict[str, tuple[float, float]] = {}

        def timed(step: str, work: Callable[..., Any], *arguments: Any, **others: Any) -> Any:
            began, cpu = time.perf_counter(), time.process_time()
            result = work(*arguments, **others)
            took[step] = time.perf_counter() - began, time.process_time() - cpu
            return result

        quality = self.folder / "quality"
        before = {name: quality / name for name in ("index", "splits")}
        timed("index", build_image_index, tables, self.index, CAPTCHA)
        found = timed(
            "validation of it", validate_image_index, self.index, CAPTCHA, tables, before=before["index"]
        )
        validation_result.save(found, "", before["index"])
        timed("splits", update_splits, self.index, self.splits, self.record, CAPTCHA, tables.__getitem__)
        rows = (self.splits, self.index, self.record, CAPTCHA, tables)
        found = timed("validation of them", validate_splits, *rows, before=before["splits"])
        validation_result.save(found, "", before["splits"])
        return took


def new_batch() -> dict[str, Path]:
    """The table of the new images."""
    return {"batch-9999": batch(9_999, NEW)}


def measure(rows: int, way: str) -> None:
    """Update in this process; print one line of JSON."""
    base = SCRATCH / "growth" / str(rows)
    if way == "first":
        shutil.rmtree(base, ignore_errors=True)
        took = Home(base / "parts").update(batches(rows))
        shutil.copytree(base / "parts" / "record", base / "whole" / "record")
    else:
        # what a process loads once, and no update again
        Home(base / f"warm-{way}").update(new_batch())
        shutil.rmtree(base / f"warm-{way}")
        took = Home(base / way).update({**batches(rows), **new_batch()})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tables = base / ("parts" if way == "first" else way)
    versions = [version_of(tables / name) for name in ("image_index", "splits")]
    print(json.dumps({"took": took, "peak": peak, "versions": versions}))


def measured(rows: int, way: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.ingest.growth", "--measure", str(rows), way]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest.growth", description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=SIZES, help="numbers of rows")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    results.add_option(parser)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(int(arguments.measure[0]), arguments.measure[1])
        return
    recording = Recording("benchmarks.ingest.growth", ("great-expectations", "pandas", "polars", "pyarrow"))
    for rows in arguments.rows:
        build_missing(rows)
        new_batch()
        measured(rows, "first")
        found = {way: measured(rows, way) for way in ("parts", "whole")}
        assert found["parts"]["versions"] == found["whole"]["versions"], "not the same tables"
        print(f"{NEW:,} images onto {rows:,}; load of the machine {os.getloadavg()[0]:.1f}")
        print(f"{'':22}{'parts, s':>10}{'CPU':>8}{'whole, s':>10}{'CPU':>8}")
        for step in found["parts"]["took"]:
            figures = [figure for way in found.values() for figure in way["took"][step]]
            print(f"{step:22}" + "{:10.2f}{:8.2f}{:10.2f}{:8.2f}".format(*figures))
        sums = [[sum(one[n] for one in way["took"].values()) for n in (0, 1)] for way in found.values()]
        print(f"{'together':22}{sums[0][0]:10.2f}{sums[0][1]:8.2f}{sums[1][0]:10.2f}{sums[1][1]:8.2f}")
        print(f"{'highest memory, GB':22}{found['parts']['peak'] / 1e9:10.2f}{'':8}", end="")
        print(f"{found['whole']['peak'] / 1e9:10.2f}")
        print(f"the whole takes {sums[1][1] / sums[0][1]:.1f} times the CPU")
        recorded(recording, rows, found)
    recording.write(arguments.result)


def recorded(recording: Recording, rows: int, found: dict[str, Any]) -> None:
    """Record what it took to add to so many rows."""
    parts, whole = found["parts"], found["whole"]
    about = f"index and splits of {rows:,} images with {NEW:,} more, validated"
    for place, unit in enumerate(("s", "CPU s")):
        ours, other = (sum(one[place] for one in way["took"].values()) for way in (parts, whole))
        target = {"target": "1.5 s", "met": ours <= 1.5} if unit == "s" and rows == SIZES[0] else {}
        recording.claim(
            f"growth-{rows}-{unit}", about, ours, unit, alternative=other,
            alternative_name="the whole tables from nothing", **target,
        )  # fmt: skip
    lines = [
        (step, *(f"{figure:.2f}" for way in (parts, whole) for figure in way["took"][step]))
        for step in parts["took"]
    ]
    memory = [f"{way['peak'] / 1e9:.2f}" for way in (parts, whole)]
    lines.append(("highest memory, GB", memory[0], "", memory[1], ""))
    columns = ("step", "parts, s", "CPU, s", "whole, s", "CPU, s")
    recording.table(f"{NEW:,} images onto {rows:,}", columns, lines)


if __name__ == "__main__":
    main()
