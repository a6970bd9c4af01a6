"""All benchmarks that this machine can run, one after the other, then their page: `python -m benchmarks`.

    python -m benchmarks [NAME ...] [--long] [--list]     # make benchmarks

A benchmark that takes more than twelve minutes on two cores runs when it is named, or with `--long`. Nothing
else should run meanwhile; the result says how busy the machine was. Each result is a file in
benchmarks/results, which takes the place of the one before; docs/benchmarks.md is made of them.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page, results
from benchmarks.catalog import BENCHMARKS, LONG, Benchmark


def chosen(names: Sequence[str], *, long: bool) -> list[Benchmark]:
    """Return the benchmarks to run: those that are named, or all that do not take long."""
    unknown = sorted(set(names) - {one.name for one in BENCHMARKS})
    if unknown:
        known = ", ".join(one.name for one in BENCHMARKS)
        sys.exit(f"error: there is no benchmark {', '.join(unknown)}; there are: {known}")
    return [one for one in BENCHMARKS if one.name in names or (not names and (long or one.minutes <= LONG))]


def run(benchmark: Benchmark, folder: Path) -> str:
    """Run a benchmark that writes its result into a folder; return what became of it, in words."""
    if obstacle := benchmark.obstacle:
        return f"not measured: {obstacle}"
    print(f"\n--- {benchmark.name}: {benchmark.command} (about {benchmark.minutes:g} minutes)", flush=True)
    unfinished = folder / f"{benchmark.name}.json.tmp"
    command = [sys.executable, "-m", benchmark.module, *benchmark.arguments, "--result", str(unfinished)]
    status = subprocess.run(command, check=False).returncode
    if status or not unfinished.exists():
        unfinished.unlink(missing_ok=True)
        return f"failed with status {status}"
    unfinished.rename(folder / f"{benchmark.name}.json")
    return "measured"


def main() -> None:
    """Run them, and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of benchmarks; default: all but the long")
    parser.add_argument("--long", action="store_true", help="the long ones too")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder of the results")
    parser.add_argument("--page", type=Path, default=page.PAGE, help="the page that is written")
    options = parser.parse_args()
    if options.list:
        for one in BENCHMARKS:
            print(f"{one.name:20}{one.minutes:>5g} min  {one.command:70}{one.obstacle or ''}".rstrip())
        return
    options.results.mkdir(parents=True, exist_ok=True)
    found = {one.name: run(one, options.results) for one in chosen(options.names, long=options.long)}
    page.write(options.results, options.page)
    print(f"\nwrote {options.page}", *(f"{name}: {words}" for name, words in found.items()), sep="\n")
    if failed := [name for name, words in found.items() if words.startswith("failed")]:
        sys.exit(f"error: {', '.join(failed)} failed: what it says stands above")


if __name__ == "__main__":
    main()
