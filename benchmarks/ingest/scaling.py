"""Index and splits at growing sizes: `python -m benchmarks.ingest.scaling [ROWS ...]`.

Builds image tables of batches of 100,000 images each (once, in `.scratch/benchmarks`; 2.2 GB per million):
generated characters, shifted at random and under a random shade, one in fifty a noisy copy of another. Builds
the index and the splits of the first ROWS in a process of its own each, and prints time and memory, and last
how many times as long each took as the size before it. All but the last are measured after it once more, and
the mean counts, since the speed of a machine drifts. For ten million rows, and to leave nothing behind:
`python -m benchmarks.ingest.scaling 10000 100000 1000000 10000000 --clean`.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import results as benchmark_results
from benchmarks.results import Recording
from captcha_assets.atomic_files import replacing
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.features import Statistics, descriptors, dhash, image_id, rounded, signatures
from captcha_assets.images.index import build_image_index
from captcha_assets.images.ingest_worker import CHUNK, arrow_array, binary_array
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA, TableWriter
from captcha_assets.sources.synthetic_batches import generate

SCRATCH = Path(__file__).resolve().parents[2] / ".scratch" / "benchmarks"
BATCH = 100_000
#: Targets: CPU of an image beside that of one of the size before, and bytes.
MOST_GROWTH, MOST_MEMORY = 1.1, 6e9
SIZES = [10_000, 100_000, 1_000_000]


def shades(count: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random fields, float (count, 52, 32)."""
    down = np.cos(np.pi * (np.arange(52)[:, None] + 0.5) * np.arange(6) / 52)
    across = np.cos(np.pi * (np.arange(32)[:, None] + 0.5) * np.arange(4) / 32)
    return down @ rng.normal(0, 15, (count, 6, 4)) @ across.T


def varied(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another image of each character: moved by up to four pixels, under a shade, every fiftieth a copy."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4)), mode="edge")
    down, across = rng.integers(0, 9, (2, len(images)))
    rows, columns = np.arange(52), np.arange(32)
    moved = padded[
        np.arange(len(images))[:, None, None],
        (down[:, None] + rows)[:, :, None],
        (across[:, None] + columns)[:, None, :],
    ]
    fields = shades(len(images), rng)
    moved[1::50], fields[1::50] = moved[::50], fields[::50]
    fields[1::50] += rng.normal(0, 3, fields[1::50].shape)
    return np.clip(moved + fields, 0, 255).astype(np.uint8)


def rows_of(pixels: np.ndarray, labels: list[str], batch: str, start: int) -> pa.RecordBatch:
    statistics, described = Statistics(pixels), descriptors(pixels)
    columns = {
        "image_id": [image_id(image) for image in pixels],
        "batch": [batch] * len(pixels),
        "member": [f"Dataset/{label}_{start + n}.png" for n, label in enumerate(labels)],
        "label": labels,
        "pixels": binary_array(pixels),
        "signature": binary_array(signatures(described)),
        "descriptors": binary_array(rounded(described)),
        "dhash": dhash(pixels),
        "brightness": statistics.brightness,
        "contrast": statistics.contrast,
        "foreground_fraction": statistics.foreground_fraction,
        "source_mode": ["L"] * len(pixels),
        "file_bytes": np.full(len(pixels), 1700, np.int32),
        "file_hash": [f"{batch} {start + n}" for n in range(len(pixels))],
    }
    arrays = [arrow_array(columns[field.name], field.type) for field in IMAGE_TABLE_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=IMAGE_TABLE_SCHEMA)


@cache
def alphabetically() -> list[tuple[str, np.ndarray]]:
    return sorted(generate(21_000, 1), key=lambda pair: pair[0])


def batch(number: int, size: int) -> Path:
    """The image table of one batch, in order of its labels as any batch is."""
    path = SCRATCH / "scaling" / f"{number:04}-{size}.parquet"
    if path.exists():
        return path
    rng = np.random.default_rng(number)
    characters = alphabetically()
    chosen = np.sort(rng.integers(len(characters), size=size))
    chosen[1::50] = chosen[::50][: len(chosen[1::50])]
    with replacing(path) as part, TableWriter(part, IMAGE_TABLE_SCHEMA) as table:
        for start in range(0, size, CHUNK):
            here = [characters[place] for place in chosen[start : start + CHUNK]]
            pixels = varied(np.stack([image for _, image in here]), rng)
            table.write(rows_of(pixels, [label for label, _ in here], f"batch-{number:04}", start))
    return path


def sizes(rows: int) -> list[int]:
    return [min(BATCH, rows - start) for start in range(0, rows, BATCH)]


def build_missing(rows: int) -> None:
    """Build the tables that are not there yet, on all cores."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(batch, range(len(sizes(rows))), sizes(rows)))


def batches(rows: int) -> dict[str, Path]:
    return {f"batch-{number:04}": batch(number, size) for number, size in enumerate(sizes(rows))}


def measure(rows: int) -> None:
    """Build index and splits in this process; print one line of JSON."""
    folder = SCRATCH / "scaling" / f"results-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    index, splits = folder / "index", folder / "splits"
    tables = batches(rows)
    began, cpu = time.perf_counter(), time.process_time()
    summary = build_image_index(tables, index, CAPTCHA)
    indexed = time.perf_counter()
    record = AssignmentRecord(folder / "data", folder / "scratch")
    update_splits(index, splits, record, CAPTCHA, tables.__getitem__)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = {"index": indexed - began, "splits": time.perf_counter() - indexed}
    times["cpu"] = time.process_time() - cpu
    print(json.dumps({**times, "peak": peak, "groups": summary.groups}))


def measured(rows: int) -> dict[str, Any]:
    """Measure in a process of its own; return seconds, bytes and groups by name."""
    command = [sys.executable, "-m", "benchmarks.ingest.scaling", "--measure", str(rows)]
    line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {"rows": rows, **json.loads(line)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest.scaling", description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=SIZES, help="numbers of rows")
    parser.add_argument("--clean", action="store_true", help="remove the tables at the end")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    benchmark_results.add_option(parser)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    recording = Recording("benchmarks.ingest.scaling", ("numpy", "polars", "pyarrow"))
    results = []
    for rows in arguments.rows:
        build_missing(rows)
        results.append(measured(rows))
    for place in reversed(range(len(results) - 1)):
        before, after = results[place], measured(arguments.rows[place])
        results[place] = {name: type(before[name])((before[name] + after[name]) / 2) for name in before}
    names = ("rows", "index, s", "splits, s", "CPU, s", "peak, GB", "groups", "times as long", "CPU")
    print("".join(f"{name:>14}" for name in names))
    before: dict[str, float] = {}
    for result in results:
        result["total"] = result["index"] + result["splits"]
        print(
            f"{result['rows']:>14,}{result['index']:>14.2f}{result['splits']:>14.2f}{result['cpu']:>14.2f}"
            f"{result['peak'] / 1e9:>14.2f}{result['groups']:>14,}",
            *(f"{result[name] / before[name]:>13.1f}" for name in ("total", "cpu") if before),
        )
        before = result
    recorded(recording, results)
    recording.write(arguments.result)
    if arguments.clean:
        shutil.rmtree(SCRATCH / "scaling")


def recorded(recording: Recording, found: list[dict[str, float]]) -> None:
    """Record what each size takes, and how the last grew from the one before it."""
    columns = ("images", "index, s", "splits, s", "both, CPU s", "highest memory, GB")
    rows = [
        (
            f"{one['rows']:,}",
            *(f"{one[name]:.2f}" for name in ("index", "splits", "cpu")),
            f"{one['peak'] / 1e9:.2f}",
        )
        for one in found
    ]
    recording.table("Index and splits, by the number of images", columns, rows)
    for before, after in pairwise(found):
        ours, alternative = (one["cpu"] / one["rows"] * 1e6 for one in (after, before))
        recording.claim(
            f"scaling-{after['rows']}",
            f"index and splits of {after['rows']:,} images, each image",
            ours,
            "CPU microseconds",
            alternative=alternative,
            alternative_name=f"an image of {before['rows']:,}",
            target="a tenth more than of ten times fewer images",
            met=ours <= MOST_GROWTH * alternative,
        )
    largest = max(found, key=lambda one: one["rows"])
    recording.claim(
        "memory",
        f"index and splits of {largest['rows']:,} images: highest memory",
        largest["peak"] / 1e9,
        "GB",
        target="6 GB",
        met=largest["peak"] <= MOST_MEMORY,
    )


if __name__ == "__main__":
    main()
