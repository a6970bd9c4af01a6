"""Ingestion against its targets and against other tools: `python -m benchmarks.ingest [--help]`.

Generates the archives once (in `.scratch/benchmarks`), ingests them in processes of their own, watches their
memory, and prints a table of ratios last, above it what each tool reads. cleanvision and imagededup are
measured on a sample, where `--tools` created their environment (a few megabytes; torch is borrowed from this
one). Nothing else should run meanwhile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import results
from benchmarks.results import Claim, Recording
from captcha_assets.sources.synthetic_batches import write_archive

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRATCH = ROOT / ".scratch" / "benchmarks"
TOOLS = SCRATCH / "tools"
#: Seconds on the wall and on the processor.
Cost = tuple[float, float]


@dataclass(frozen=True)
class Ingestion:
    """Seconds per step, on the wall and on the processor; the highest memory of all processes together."""

    seconds: dict[str, float]
    cpu: dict[str, float]
    images: int
    peak: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def archive(count: int, seed: int) -> Path:
    path = SCRATCH / f"images-{count}-{seed}.zip"
    if not path.exists():
        print(f"generating {path.name} (once)", flush=True)
        write_archive(path, count, seed)
    return path


def joined(one: Path, other: Path) -> Path:
    """An archive of the images of two, under names that differ."""
    path = SCRATCH / f"{one.stem}-and-{other.stem}.zip"
    if not path.exists():
        with zipfile.ZipFile(path, "w") as target:
            for number, source in enumerate((one, other)):
                with zipfile.ZipFile(source) as members:
                    for name in members.namelist():
                        target.writestr(f"{number}/{name}", members.read(name))
    return path


def watch(process: subprocess.Popen[str]) -> int:
    """Wait for a process; return the peak of the resident memory of it and its children, in bytes.

    Shared pages count once per process: the true figure is lower.
    """
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for part in [root, *root.children(recursive=True)]:
                total += part.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        peak = max(peak, total)
        time.sleep(0.02)
    return peak


def run(*command: str | Path, cores: Iterable[int] | None = None) -> tuple[str, int]:
    """Run a Python program; return the last line it prints and its peak of memory."""
    mask = set(cores) if cores else os.sched_getaffinity(0)
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1"},  # no bars of other people's between the figures
        preexec_fn=lambda: os.sched_setaffinity(0, mask),  # noqa: PLW1509 - nothing runs beside it here
    )
    peak = watch(process)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with status {process.returncode}")
    return output.splitlines()[-1], peak


def ingest(folder: Path, *batches: tuple[str, Path]) -> Ingestion:
    folder.mkdir(parents=True, exist_ok=True)
    named = [f"{name}={path}" for name, path in batches]
    line, peak = run(sys.executable, "-m", "benchmarks.ingest.ours", folder, *named)
    result = json.loads(line)
    return Ingestion(result["seconds"], result["cpu"], result["images"], peak)


def loose_files(source: Path, count: int) -> Path:
    """A folder of the first images of an archive: the other tools read nothing else."""
    folder = SCRATCH / f"loose-{count}"
    if not folder.exists():
        folder.mkdir()
        with zipfile.ZipFile(source) as members:
            for name in members.namelist()[:count]:
                (folder / Path(name).name).write_bytes(members.read(name))
    return folder


def make_tools() -> None:
    """An environment of their own that borrows what this one has: they change nothing here."""
    uv, python = Path(sys.executable).with_name("uv"), TOOLS / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, TOOLS], check=True)
    needed = ["--no-deps", "--requirement", HERE / "requirements.txt"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *needed], check=True)
    inside = next(TOOLS.glob("lib/python*/site-packages"))
    (inside / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def seconds(line: str) -> Cost:
    """Return the seconds on the wall and on the processor that a program has printed."""
    wall, cpu = map(float, line.split())
    return wall, cpu


def tool_costs(source: Path, sample: int) -> Iterator[tuple[str, Cost | None]]:
    """Yield each tool's name and seconds for the sample, None where its environment is missing."""
    for name in ("cleanvision", "imagededup"):
        if not TOOLS.exists():
            yield name, None
            continue
        line, _ = run(TOOLS / "bin" / "python", HERE / f"{name}_run.py", loose_files(source, sample))
        yield name, seconds(line)


PACKAGES = ("great-expectations", "numpy", "opencv-python-headless", "pandas", "pillow", "polars", "pyarrow")

#: What each of them looks at that the others do not.
CHECKED = {
    "ours": "labels (known classes, balance, contradictions between copies), image size and colour mode, "
    "lies and attacks in archives, near-duplicates by their pixels within a class (a copy moved by a pixel "
    "is found, distinct images of a class are not mistaken), leaks between splits. It goes on at bad files.",
    "Pillow loop": "nothing that ours does not; it finds exact duplicates only, and validates nothing.",
    "cleanvision": "blurry, low-information and grayscale images, odd sizes and aspect ratios, each image "
    "compared with the others of its set; near-duplicates by an equal perceptual hash, whatever the label. "
    "Of single images ours bounds brightness, contrast and foreground, and does not look for blur.",
    "imagededup": "near-duplicates by difference hashes up to 10 bits apart, whatever the label: across "
    "classes as well, where ours looks within one. It has other hashes and a neural network, not measured.",
}


def aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def measured(claim: Claim) -> tuple[str, str, str, str]:
    """Return the line of a claim."""
    ratio = f", {claim.ratio:.2f} times as good as {claim.alternative_name}" if claim.ratio else ""
    return claim.claim, f"{claim.ours:.4g} {claim.unit}{ratio}", claim.target, met_or_missed(claim.met)


def met_or_missed(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: ""}[met]


def claims(recording: Recording, whole: Ingestion, added: Ingestion, large: Ingestion) -> None:
    """Compare the figures with the targets."""
    images = f"{whole.images:,} images"
    names = [
        "from a zip to checked, hashed, deduplicated and validated tables",
        "highest memory, all processes",
    ]
    claim, total = recording.claim, whole.total
    claim("seconds", f"{images} {names[0]}", total, "s", target="20 s", met=total <= 20)
    peak = whole.peak / 1e9
    claim("memory", f"the same: {names[1]}", peak, "GB", target="1.5 GB", met=peak <= 1.5)
    growth = large.peak / whole.peak
    claim(
        "memory-twice", "highest memory with twice the images", large.peak / 1e9, "GB", alternative=peak,
        alternative_name=f"with {images}", target="1.2 times at most", met=growth <= 1.2,
    )  # fmt: skip
    share = added.total / total
    claim(
        "more", "1,000 more images", added.total, "s", alternative=total, alternative_name="everything anew",
        target="a tenth", met=share <= 0.1,
    )  # fmt: skip


def beside(
    recording: Recording, whole: Ingestion, loop: Cost, tools: Iterable[tuple[str, Cost | None]], sample: int
) -> None:
    """Compare the figures with those of a plain loop and of the other tools."""
    # the loop does what the image table needs and no more: no duplicates but exact ones, no validation
    ours = whole.seconds["image_table"], whole.cpu["image_table"]
    others = [("the same by a plain loop over Pillow, one core", "the image table", ours, loop, 3)]
    everything = tuple(sample * sum(one.values()) / whole.images for one in (whole.seconds, whole.cpu))
    others += [
        (f"{name}, on {sample:,} alone", f"{sample:,} images of it, all steps", everything, cost, least)
        for (name, cost), least in zip(tools, (15, 5), strict=True)
        if cost
    ]
    for name, claim, our_costs, costs, least in others:
        for unit, mine, other in zip(("s", "CPU s"), our_costs, costs, strict=True):
            recording.claim(
                f"{name}, {unit}", claim, mine, unit, alternative=other, alternative_name=name,
                target=f"{least} times", met=other / mine >= least,
            )  # fmt: skip


def steps(recording: Recording, whole: Ingestion, added: Ingestion) -> None:
    """Say where the seconds go."""
    rows = [
        (step, *(f"{figure:.2f}" for one in (whole, added) for figure in (one.seconds[step], one.cpu[step])))
        for step in whole.seconds
    ]
    columns = ("step", f"{whole.images:,} images, s", "its CPU, s", "+1,000, s", "its CPU, s")
    recording.table("Where the seconds go", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--count", type=int, default=118_000, help="images of the first batch (118,000)")
    parser.add_argument("--sample", type=int, default=2_000, help="images for the other tools (2,000)")
    parser.add_argument("--tools", action="store_true", help="create the other tools' environment first")
    results.add_option(parser)
    arguments = parser.parse_args()
    recording = Recording("benchmarks.ingest", PACKAGES)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    if arguments.tools:
        make_tools()
    first, more = archive(arguments.count, 1), archive(1_000, 2)
    double = joined(first, archive(arguments.count, 3))
    folder, twice = SCRATCH / "tables", SCRATCH / "tables-twice"
    for old in (folder, twice):
        shutil.rmtree(old, ignore_errors=True)
    whole = ingest(folder, ("first", first))
    added = ingest(folder, ("more", more))
    large = ingest(twice, ("double", double))
    loop, _ = run(
        sys.executable, "-m", "benchmarks.ingest.pillow_loop", first, SCRATCH / "pillow.parquet", cores=[0]
    )
    tools = list(tool_costs(first, arguments.sample))
    claims(recording, whole, added, large)
    beside(recording, whole, seconds(loop), tools, arguments.sample)
    steps(recording, whole, added)
    for table in recording.tables:
        print(aligned([table.columns, *table.rows]), end="\n\n")
    print("\nWhat each looks at that the others do not:")
    for name, looked_at in CHECKED.items():
        print(textwrap.fill(f"{name}: {looked_at}", 110, initial_indent="  ", subsequent_indent="    "))
    print(f"\n{aligned(list(map(measured, recording.claims)))}")
    for name in (name for name, cost in tools if cost is None):
        print(f"{name} was not measured: --tools")
    recording.write(arguments.result)


if __name__ == "__main__":
    main()
