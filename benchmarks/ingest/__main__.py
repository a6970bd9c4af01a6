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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from captcha_assets.sources.synthetic_batches import write_archive

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCRATCH = ROOT / ".scratch" / "benchmarks"
TOOLS = SCRATCH / "tools"


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


def tool_rates(source: Path, sample: int) -> Iterator[tuple[str, float | None]]:
    """Yield each tool's name and images a second, None where its environment is missing."""
    for name in ("cleanvision", "imagededup"):
        if not TOOLS.exists():
            yield name, None
            continue
        line, _ = run(TOOLS / "bin" / "python", HERE / f"{name}_run.py", loose_files(source, sample))
        yield name, sample / float(line)


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


def table(rows: list[tuple[str, str, str, str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def met_or_missed(met: bool) -> str:
    return "met" if met else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--count", type=int, default=118_000, help="images of the first batch (118,000)")
    parser.add_argument("--sample", type=int, default=2_000, help="images for the other tools (2,000)")
    parser.add_argument("--tools", action="store_true", help="create the other tools' environment first")
    arguments = parser.parse_args()
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
    print(f"{'seconds':25s}{whole.images:>10,}{'CPU':>10}{'+1,000':>10}{'CPU':>10}")
    for step, seconds in whole.seconds.items():
        print(
            f"{step:25s}{seconds:10.2f}{whole.cpu[step]:10.2f}{added.seconds[step]:10.2f}{added.cpu[step]:10.2f}"
        )
    print(f"{'together':25s}{whole.total:10.2f}{sum(whole.cpu.values()):10.2f}", end="")
    print(f"{added.total:10.2f}{sum(added.cpu.values()):10.2f}")
    rows = [("", "measured", "target", "")]
    rate = whole.images / whole.total
    rows.append(
        (f"{whole.images:,} images", f"{whole.total:.1f} s", "20 s", met_or_missed(whole.total <= 20))
    )
    rows.append(
        ("peak of memory", f"{whole.peak / 1e9:.2f} GB", "1.5 GB", met_or_missed(whole.peak <= 1.5e9))
    )
    growth = large.peak / whole.peak
    rows.append(
        ("peak with twice the images", f"{growth:.2f} times", "1.2 times", met_or_missed(growth <= 1.2))
    )
    share = added.total / whole.total
    rows.append(("1,000 more images", f"{share:.1%} of the first", "10%", met_or_missed(share <= 0.1)))
    # the loop does what the image table needs and no more: no duplicates but exact ones, no validation
    ratio = float(loop) / whole.seconds["image_table"]
    rows.append(("Pillow loop, one core", f"{ratio:.1f} times as long", "3 times", met_or_missed(ratio >= 3)))
    for (name, other), least in zip(tool_rates(first, arguments.sample), (15, 5), strict=True):
        measured = f"{rate / other:.1f} times as long" if other else "not measured: --tools"
        rows.append((name, measured, f"{least} times", met_or_missed(rate / other >= least) if other else ""))
    print("\nWhat each looks at that the others do not:")
    for name, looked_at in CHECKED.items():
        print(textwrap.fill(f"{name}: {looked_at}", 110, initial_indent="  ", subsequent_indent="    "))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
