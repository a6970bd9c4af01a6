"""One ingestion, as the platform does it, timed step by step: `python -m benchmarks.ingest.ours`.

Arguments: a folder for the tables, then `name=archive` for each batch that is new; tables that lie in the
folder already are batches from before. Prints one line of JSON: seconds per step, from the moment the
libraries are loaded, and beside them the processor's seconds, those of worker processes included.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.quality import validation_result
from captcha_assets.quality.validation import validate_image_index, validate_image_table, validate_splits


class Stopwatch:
    """Seconds per step, on the wall and on the processor."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    def time(self, step: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began, cpu = time.perf_counter(), sum(os.times()[:4])
        result = work(*arguments)
        self.seconds[step] = self.seconds.get(step, 0) + time.perf_counter() - began
        self.cpu[step] = self.cpu.get(step, 0) + sum(os.times()[:4]) - cpu
        return result


def main(folder: Path, *batches: str) -> None:
    watch = Stopwatch()
    index, splits = folder / "image_index", folder / "splits"
    for name, archive in (batch.split("=", 1) for batch in batches):
        table, rejected = folder / f"table-{name}.parquet", folder / f"rejected-{name}.parquet"
        watch.time("image_table", build_image_table, Path(archive), name, table, rejected, CAPTCHA)
        watch.time("validation of image_table", validate_image_table, table, rejected, CAPTCHA)
    record = AssignmentRecord(folder / "data", folder / "scratch")
    tables = {path.stem.removeprefix("table-"): path for path in sorted(folder.glob("table-*.parquet"))}
    before = {name: folder / "quality" / name for name in ("image_index", "splits")}
    summary = watch.time("image_index", build_image_index, tables, index, CAPTCHA)
    validate = partial(validate_image_index, before=before["image_index"])
    found = watch.time("validation of image_index", validate, index, CAPTCHA, tables)
    validation_result.save(found, "", before["image_index"])
    watch.time("splits", update_splits, index, splits, record, CAPTCHA, tables.__getitem__)
    validate = partial(validate_splits, before=before["splits"])
    found = watch.time("validation of splits", validate, splits, index, record, CAPTCHA, tables)
    validation_result.save(found, "", before["splits"])
    print(json.dumps({"images": summary.images, "seconds": watch.seconds, "cpu": watch.cpu}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
