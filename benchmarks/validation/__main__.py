"""How long the validation of the tables takes: `python -m benchmarks.validation`.

Writes tables of 118,000 images that meet every expectation, and tables in which every fourth image meets
hardly any; validates each several times in this process, and prints the fastest, warm. The second figure is
the ratio to Polars reading the same columns and counting the values of each.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import polars as pl

from benchmarks import results
from benchmarks.results import Recording
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import INDEX_SCHEMA
from captcha_assets.images.split_assignment import SPLITS_SCHEMA
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA, REJECTED_SCHEMA
from captcha_assets.quality import validation
from captcha_assets.quality.derived_tables import polars_schema

#: The most seconds that validating one table may take, at 118,000 rows.
MOST_SECONDS = 0.5

_ALPHABET = (*CAPTCHA.classes, "n")


def image_table(images: int) -> pl.DataFrame:
    """Return an image table: hashes, labels and statistics as they are, pixels of noise."""
    rng = np.random.default_rng(0)
    noise = [rng.bytes(CAPTCHA.height * CAPTCHA.width) for _ in range(1000)]
    values = {
        "image_id": [rng.bytes(16).hex() for _ in range(images)],
        "batch": ["first"] * images,
        "member": [f"Dataset/{number:06d}.png" for number in range(images)],
        "label": [_ALPHABET[number % len(_ALPHABET)] for number in range(images)],
        "pixels": [noise[number % len(noise)] for number in range(images)],
        "signature": [bytes(8)] * images,
        "descriptors": [bytes(8)] * images,
        "dhash": range(images),
        "brightness": rng.uniform(110, 180, images),
        "contrast": rng.uniform(75, 100, images),
        "foreground_fraction": rng.uniform(0.2, 0.5, images),
        "source_mode": ["L"] * images,
        "file_bytes": [1500] * images,
        "file_hash": [rng.bytes(16).hex() for _ in range(images)],
    }
    return pl.DataFrame(values, schema=polars_schema(IMAGE_TABLE_SCHEMA))


def image_index(table: pl.DataFrame) -> pl.DataFrame:
    """Return the index of the table, in which one image of ten is a near-duplicate of the one before."""
    rows = table.sort("label", "image_id").with_row_index("row")
    group = pl.when(pl.col("row") % 10 == 1).then(pl.col("image_id").shift(1).over("label"))
    return (
        rows.with_columns(
            status=pl.lit("usable"),
            group=group.fill_null(pl.col("image_id")),
            copies=pl.lit(1, pl.Int32),
            sources=pl.concat_list(pl.struct("batch", "member", "label")),
        )
        .sort("image_id")
        .select(INDEX_SCHEMA.names)
    )


def splits(index: pl.DataFrame) -> pl.DataFrame:
    """Return the splits of the index: 70, 20 and 10 percent of each class, a group in one split."""
    index = index.sort("label", "group").with_columns(
        place=pl.int_range(pl.len()).over("label") / pl.len().over("label")
    )
    place = pl.col("place")
    split = pl.when(place < 0.7).then(pl.lit("train")).when(place < 0.9).then(pl.lit("validation"))
    first = split.otherwise(pl.lit("test")).first().over("group")
    values = {"split": first, "exclusion_reason": pl.lit(None, pl.String)}
    return index.with_columns(**values).sort("image_id").select(SPLITS_SCHEMA.names)


def spoiled(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table, every fourth row of which has another label and other statistics or another split."""
    every_fourth = pl.int_range(pl.len()) % 4 == 0
    statistics = {"brightness": 255.0, "contrast": 0.0, "foreground_fraction": 1.0}
    wrong = {"label": "z", **statistics, "status": "odd", "split": "odd"}
    return table.with_columns(
        pl.when(every_fourth).then(pl.lit(value, table.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in wrong.items()
        if name in table.columns
    )


def counted(path: Path) -> None:
    """Read the columns that are validated, and count the values of each."""
    wide = {"pixels", "signature", "descriptors", "sources"}
    lazy = pl.scan_parquet(path)
    names = [name for name in lazy.collect_schema() if name not in wide]
    lazy.select(pl.col(name).n_unique() for name in names).collect()


def fastest(work: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Return the fewest seconds of several runs, on the wall and on the processor; the first warms up."""
    work()
    seconds = []
    for _ in range(repeat):
        began, cpu = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - began, time.process_time() - cpu))
    wall, cpu = zip(*seconds, strict=True)
    return min(wall), min(cpu)


@click.command()
@click.option("--images", default=118_000, show_default=True, help="Rows of each table.")
@click.option("--repeat", default=5, show_default=True, help="Runs of each, of which the fastest counts.")
@results.option
def main(images: int, repeat: int, result: Path | None) -> None:
    """Time the validation of the three tables."""
    recording = Recording("benchmarks.validation", ("great-expectations", "pandas", "polars"))
    table = image_table(images)
    index = image_index(table)
    tables = {"image_table": table, "image_index": index, "splits": splits(index)}
    with tempfile.TemporaryDirectory() as name:
        for kind, change in (("sound", lambda frame: frame), ("spoiled", spoiled)):
            for asset, (path, work) in _work(Path(name) / kind, tables, change).items():
                (seconds, cpu), (least, count) = (
                    fastest(one, repeat) for one in (work, lambda path=path: counted(path))
                )
                met = "met" if seconds <= MOST_SECONDS else "not met"
                click.echo(
                    f"{kind:8} {asset:12} {seconds:5.2f} s ({met}: {MOST_SECONDS} s), "
                    f"{seconds / least:5.1f} times a count of the values ({least:.3f} s)"
                )
                claim = f"Great Expectations validates {images:,} {kind} rows of {asset}"
                counting = "Polars counts the values of each column"
                recording.claim(
                    f"{kind}-{asset}", claim, seconds, "s", alternative=least, alternative_name=counting,
                    target=f"{MOST_SECONDS} s", met=seconds <= MOST_SECONDS,
                )  # fmt: skip
                recording.claim(
                    f"{kind}-{asset}, CPU", claim, cpu, "CPU s", alternative=count, alternative_name=counting
                )
    recording.write(result)


def _work(
    folder: Path, tables: dict[str, pl.DataFrame], change: Callable[[pl.DataFrame], pl.DataFrame]
) -> dict[str, tuple[Path, Callable[[], object]]]:
    folder.mkdir()
    paths = {name: folder / f"{name}.parquet" for name in (*tables, "rejected_images")}
    for name, frame in tables.items():
        change(frame).write_parquet(paths[name], row_group_size=8192)
    pl.DataFrame(schema=polars_schema(REJECTED_SCHEMA)).write_parquet(paths["rejected_images"])
    record = AssignmentRecord(folder / "data", folder / "scratch")
    record.append(tables["splits"].select("image_id", "split", "label", "batch"))
    return {
        "image_table": (
            paths["image_table"],
            lambda: validation.validate_image_table(paths["image_table"], paths["rejected_images"], CAPTCHA),
        ),
        "image_index": (
            paths["image_index"],
            lambda: validation.validate_image_index(paths["image_index"], CAPTCHA),
        ),
        "splits": (
            paths["splits"],
            lambda: validation.validate_splits(paths["splits"], paths["image_index"], record, CAPTCHA),
        ),
    }


if __name__ == "__main__":
    main()
