"""Great Expectations validates the tables, and the drift of a batch.

Importing this module imports Great Expectations, which takes seconds: import it where a table is validated.
"""

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import great_expectations as gx
import pandas as pd
import polars as pl
import pyarrow as pa
from great_expectations import expectations as gxe
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.data_context.data_context.ephemeral_data_context import EphemeralDataContext
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.execution_engine import pandas_execution_engine

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.split_assignment import DEFAULT_RATIOS, SplitRatios
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.quality import (
    derived_tables,
    example_images,
    suites,
    validation_result,
    validation_runs,
)
from captcha_assets.quality.derived_tables import row_count, scan
from captcha_assets.quality.suites import Expectation, Suite
from captcha_assets.quality.validation_result import MAX_EXAMPLES, Runs, ValidationResult

# The import leaves hundreds of thousands of objects that stay for ever. By default, the garbage collector
# goes through all of them once in the middle of the work and once at the end, half a second each.
gc.freeze()

# Tables of less than so many bytes are hashed for a marker in the result, which is not kept here.
pandas_execution_engine.HASH_THRESHOLD = 0


def validate_image_table(table: AnyPath, rejected: AnyPath, spec: DatasetSpec) -> ValidationResult:
    """Validate one batch: its usable images and its rejected members.

    Args:
        table: the batch's image table.
        rejected: its rejected members.
        spec: what its images should be like.

    Raises:
        ValidationError: one of the tables is absent or cannot be read.
    """
    derived = derived_tables.of_image_table(table, rejected, spec)
    rows = row_count(scan(table))
    return validate(
        "image_table", f"image_table/{table.stem}", derived, spec, rows=rows, tables={table.stem: table}
    )


def validate_image_index(
    index: AnyPath,
    spec: DatasetSpec,
    tables: Mapping[str, AnyPath] | None = None,
    *,
    before: AnyPath | None = None,
) -> ValidationResult:
    """Validate the index of all distinct images.

    Args:
        index: the image index.
        spec: what its images should be like.
        tables: image tables by batch; the images of unexpected rows are taken from them.
        before: folder of validation results; rows that were validated then are not validated again.

    Raises:
        ValidationError: a table is absent or cannot be read.
    """
    derived = derived_tables.of_image_index(index)
    rows, kept = row_count(scan(index)), validation_result.load_runs(before)
    return validate("image_index", "image_index", derived, spec, rows=rows, tables=tables, kept=kept)


def validate_splits(
    splits: AnyPath,
    index: AnyPath,
    record: AssignmentRecord,
    spec: DatasetSpec,
    tables: Mapping[str, AnyPath] | None = None,
    *,
    ratios: SplitRatios = DEFAULT_RATIOS,
    before: AnyPath | None = None,
) -> ValidationResult:
    """Validate the splits of the images.

    Args:
        splits: the split of every image.
        index: the image index that the splits were assigned from.
        record: the split assignments.
        spec: what the images should be like.
        tables: image tables by batch; the images of unexpected rows are taken from them.
        ratios: the share of each split.
        before: folder of validation results; rows that were validated then are not validated again.

    Raises:
        ValidationError: a table is absent or cannot be read.
        AssignmentError: the record is damaged.
    """
    derived = derived_tables.of_splits(splits, index, record.read(), asdict(ratios))
    rows, kept = row_count(scan(splits)), validation_result.load_runs(before)
    return validate("splits", "splits", derived, spec, rows=rows, tables=tables, kept=kept)


def validate_prediction_log(
    table: AnyPath, schema: pa.Schema, day: str, spec: DatasetSpec
) -> ValidationResult:
    """Validate the served predictions of a day.

    Args:
        table: the day's predictions.
        schema: its columns.
        day: `YYYY-MM-DD`.
        spec: the classes, and what images should be like.

    Raises:
        ValidationError: the table is absent or cannot be read.
    """
    derived = derived_tables.of_prediction_log(table, schema, day)
    return validate("prediction_log", f"prediction_log/{day}", derived, spec, rows=row_count(scan(table)))


def validate(
    asset: str,
    subject: str,
    derived: Mapping[str, pl.DataFrame | pd.DataFrame],
    spec: DatasetSpec,
    *,
    rows: int,
    tables: Mapping[str, AnyPath] | None = None,
    kept: Runs | None = None,
) -> ValidationResult:
    """Validate what is derived of a table with the suites of its asset (`suites.SUITES_OF_ASSET`).

    Args:
        asset: name of the asset.
        subject: what is validated, such as `image_table/first`.
        derived: tables by suite. A table that is not there fails all expectations of its suite.
        spec: what the images should be like.
        rows: number of rows of the stored table.
        tables: image tables by batch; the images of unexpected rows are taken from them.
        kept: runs of an earlier validation; without them, even empty ones, each suite is validated at once.
    """
    here = context()
    source = here.data_sources.add_pandas("tables").add_dataframe_asset("derived_tables")
    data = source.add_batch_definition_whole_dataframe("whole_table")
    found: list[Mapping[str, Any]] = []
    runs: dict[str, list[validation_runs.Run]] = {}
    for name in suites.SUITES_OF_ASSET[asset]:
        if not (expectations := suites.SUITES[name](spec)):
            continue
        suite, table = suite_of(name, expectations), derived.get(name)
        check = partial(_validated, data, suite, expectations)
        if kept is None or not isinstance(table, pl.DataFrame):
            found.append(check(table))
            continue
        one, runs[name] = validation_runs.validated(table, expectations, kept.get(name, ()), check)
        found.append(one)
    result = ValidationResult(subject, rows, found, runs=runs)
    unexpected = (row for one in result.results for row in one.examples)
    return replace(result, images=example_images.of_rows(unexpected, tables or {}, spec))


def suite_of(name: str, expectations: Suite) -> gx.ExpectationSuite:
    """Return a suite as Great Expectations knows it; each expectation has its name in `meta`."""
    return gx.ExpectationSuite(
        name=name,
        expectations=[
            getattr(gxe, one.type)(
                **one.arguments, severity=one.severity, notes=one.notes, meta={"name": check}
            )
            for check, one in expectations.items()
        ],
    )


def context() -> EphemeralDataContext:
    """Return a context that stores nothing, sends no telemetry and prints nothing."""
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _validated(
    data: BatchDefinition,
    suite: gx.ExpectationSuite,
    expectations: Suite,
    table: pl.DataFrame | pd.DataFrame | None,
) -> dict[str, Any]:
    """Return the result of a suite as Great Expectations writes it, its unexpected rows named."""
    table = pd.DataFrame() if table is None else table
    table = table.to_pandas() if isinstance(table, pl.DataFrame) else table
    batch = data.get_batch({"dataframe": table})
    # A `ValidationDefinition` would also write suite and result into stores that nobody reads.
    found = batch.validate(
        suite,
        # The rows are named below: Great Expectations takes seconds where many rows are unexpected.
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": MAX_EXAMPLES,
            "return_unexpected_index_query": False,
        },
    ).to_json_dict()
    by_name = {one["expectation_config"]["meta"]["name"]: one for one in found["results"]}
    results = [
        _with_rows(by_name[check], table, _shown(suite.name, one)) for check, one in expectations.items()
    ]
    # The rest says when and where, which differs each time.
    return {key: found[key] for key in ("success", "suite_name", "statistics")} | {"results": results}


def _columns(expectation: Expectation) -> list[str]:
    """Return the columns that an expectation names in `column`, `column_A`, `column_B` or `column_list`."""
    found = [value for name, value in expectation.arguments.items() if name.startswith("column")]
    return [column for value in found for column in ([value] if isinstance(value, str) else value)]


def _shown(suite: str, expectation: Expectation) -> list[str]:
    """Return the columns that an unexpected row of an expectation shows."""
    columns = [*suites.IDENTIFYING_COLUMNS[suite], *_columns(expectation), *expectation.shown]
    return list(dict.fromkeys(columns))


def _with_rows(result: dict[str, Any], table: pd.DataFrame, shown: Sequence[str]) -> dict[str, Any]:
    """Return a result with its unexpected rows in place of their numbers.

    Tracebacks are left out, and what differs between two validations of the same table.
    """
    info, found = result["exception_info"], result["result"]
    for one in [info] if "raised_exception" in info else info.values():
        one["exception_traceback"] = ""
    result["expectation_config"].pop("id", None)
    if missing := found.get("partial_missing_list"):
        found["partial_missing_list"] = sorted(missing)
    if numbers := found.get("partial_unexpected_index_list"):
        rows = table.loc[numbers, [name for name in shown if name in table]].to_dict("records")
        found["partial_unexpected_index_list"] = [_plain(row) for row in rows]
    return result


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a row that are there, as JSON knows them; 32-bit floats show noise."""
    return {
        name: (float(f"{value:.6g}") if math.isfinite(value) else str(value))
        if isinstance(value, float)
        else value
        for name, value in row.items()
        if not pd.isna(value)
    }
