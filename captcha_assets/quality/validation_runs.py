"""Validation of large tables in runs: rows that were validated before are not validated again.

A run validates the rows of some batches with one suite. Its result is kept with a hash of these rows, and
counts as long as they stay as they are; the result of the table is the sum of its runs. This holds for
expectations that look at one row at a time, or ask whether a value stands there once: rows with a value that
stands there twice are validated together, whatever their batches.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import xxhash

from captcha_assets.images.table_files import repeated
from captcha_assets.quality.suites import Suite
from captcha_assets.quality.validation_result import MAX_EXAMPLES

#: At most so many rows are validated together, unless they are of one batch.
ROWS = 1 << 18
#: More kept runs than these, and one for each `ROWS`, are validated anew, as few large ones.
_MOST_RUNS = 32

_UNIQUE = "ExpectColumnValuesToBeUnique"
#: Expectations whose results of several tables add up to that of all their rows.
_ADDING_UP = {
    _UNIQUE,
    "ExpectColumnPairValuesAToBeGreaterThanB",
    "ExpectColumnPairValuesToBeEqual",
    "ExpectColumnValuesToBeBetween",
    "ExpectColumnValuesToBeInSet",
    "ExpectColumnValuesToBeNull",
    "ExpectColumnValuesToNotBeInSet",
    "ExpectColumnValuesToNotBeNull",
}
#: Of rows with a value that stands there twice.
_TWICE = "\0"

#: Validates rows with a suite; returns its result as Great Expectations writes it.
Validate = Callable[[pl.DataFrame], Mapping[str, Any]]


class Run(NamedTuple):
    """One run: JSON knows its values.

    Attributes:
        batches: whose rows were validated.
        rows: hash of these rows, and of the suite.
        result: of the suite, as Great Expectations writes it.
    """

    batches: Sequence[str]
    rows: str
    result: Mapping[str, Any]


def validated(
    table: pl.DataFrame, suite: Suite, kept: Iterable[Sequence[Any]], validate: Validate
) -> tuple[Mapping[str, Any], list[Run]]:
    """Validate a table, but for the rows whose results are kept.

    Args:
        table: with a column `batch`, or a small one.
        suite: what is expected of its rows.
        kept: the runs of an earlier validation.
        validate: validates rows.

    Returns:
        The result of the suite, and the runs that it consists of, to be kept.
    """
    parts = {str(batch): rows for (batch,), rows in table.group_by(_batch(table, suite), maintain_order=True)}
    named = _name(suite)
    runs = [run for run in (Run(*one) for one in kept) if run.rows == _hash(parts, run.batches, named)]
    if len(runs) > _MOST_RUNS + len(table) // ROWS:
        runs = []
    left = sorted(set(parts) - {batch for run in runs for batch in run.batches})
    for batches in _together(left, parts):
        rows = pl.concat([parts[batch] for batch in batches])
        runs.append(Run(batches, _hash(parts, batches, named), validate(rows)))
    if not runs:
        return validate(table), []
    runs.sort()
    return _sum([run.result for run in runs]), runs


def _batch(table: pl.DataFrame, suite: Suite) -> pl.Series:
    """Return by row whose results it is kept with: nobody's where results do not add up."""
    if "batch" not in table.columns or any(one.type not in _ADDING_UP for one in suite.values()):
        return pl.Series("batch", [""]).new_from_index(0, len(table))
    twice = pl.Series([False]).new_from_index(0, len(table))
    for one in suite.values():
        if one.type == _UNIQUE and (name := one.arguments["column"]) in table.columns:
            twice |= repeated(table[name]) & table[name].is_not_null()
    batch = pl.when(twice).then(pl.lit(_TWICE)).otherwise(pl.col("batch").cast(pl.String).fill_null(""))
    return table.select(batch.alias("batch")).to_series()


def _name(suite: Suite) -> str:
    """Return a hash of a suite, its notes among it, and of what the hash of rows depends on."""
    return hashlib.sha256(repr((pl.__version__, sorted(suite.items()))).encode()).hexdigest()


def _hash(parts: Mapping[str, pl.DataFrame], batches: Sequence[str], suite: str) -> str:
    """Return the hash of the rows of batches; empty where one of them is not there."""
    if not all(batch in parts for batch in batches):
        return ""
    content = xxhash.xxh3_128(suite.encode())
    for batch in batches:
        content.update(repr((batch, parts[batch].schema)).encode())
        content.update(parts[batch].hash_rows(1, 2, 3, 4).to_numpy().data)
    return content.hexdigest()


def _together(batches: Sequence[str], parts: Mapping[str, pl.DataFrame]) -> Iterator[list[str]]:
    """Yield the batches in runs of some `ROWS` rows."""
    run: list[str] = []
    rows = 0
    for batch in batches:
        if run and rows + len(parts[batch]) > ROWS:
            yield run
            run, rows = [], 0
        run.append(batch)
        rows += len(parts[batch])
    if run:
        yield run


def _sum(results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the result of all rows from those of several runs of one suite."""
    if len(results) == 1:
        return results[0]
    found = [_added(ones) for ones in zip(*(one["results"] for one in results), strict=True)]
    successful = sum(one["success"] for one in found)
    statistics = {
        "evaluated_expectations": len(found),
        "successful_expectations": successful,
        "unsuccessful_expectations": len(found) - successful,
        "success_percent": successful / len(found) * 100,
    }
    return {
        **results[0],
        "success": successful == len(found),
        "statistics": statistics,
        "results": found,
    }


def _added(ones: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the result of one expectation from those of several runs."""
    for one in ones:
        if "unexpected_count" not in one["result"]:
            return one  # it could not be validated: `exception_info` says why
    found = [one["result"] for one in ones]
    counts = {
        name: sum(one[name] for one in found)
        for name in ("element_count", "unexpected_count", "missing_count")
        if name in found[0]
    }
    elements, unexpected = counts["element_count"], counts["unexpected_count"]
    there = elements - counts.get("missing_count", 0)
    percent = unexpected / there * 100 if there else None
    result: dict[str, Any] = {
        **found[0],
        **counts,
        "unexpected_percent": percent,
        "unexpected_percent_nonmissing": percent,
        "unexpected_percent_total": unexpected / elements * 100 if elements else None,
        "missing_percent": counts.get("missing_count", 0) / elements * 100 if elements else None,
        **_examples(found),
    }
    mostly = ones[0]["expectation_config"]["kwargs"].get("mostly", 1)
    success = not there or (there - unexpected) / there >= mostly
    names = dict.fromkeys(name for one in found for name in one)
    return {**ones[0], "success": success, "result": {name: result.get(name) for name in names}}


def _examples(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first unexpected rows of several runs, in the order of their batches and images."""
    lists = {name: [row for one in found for row in one.get(name) or ()] for name in _LISTS}
    rows = lists["partial_unexpected_index_list"]
    numbers = sorted(range(len(rows)), key=lambda number: [str(value) for value in _order(rows[number])])
    if len(lists["partial_unexpected_list"]) == len(rows):
        lists["partial_unexpected_list"] = [lists["partial_unexpected_list"][number] for number in numbers]
    lists["partial_unexpected_index_list"] = [rows[number] for number in numbers]
    return {name: values[:MAX_EXAMPLES] for name, values in lists.items()}


_LISTS = ("partial_unexpected_list", "partial_unexpected_index_list", "partial_unexpected_counts")


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row.get("batch", ""), row.get("image_id", ""), *row.values()
