"""Great Expectations in, a plain verdict out: the image table, the image index and the splits are judged.

Importing this module imports Great Expectations, which takes seconds: import it where a table is judged.
"""

import gc
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.batch_definition import BatchDefinition
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.core.expect_column_max_to_be_between import ExpectColumnMaxToBeBetween

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.assignments import AssignmentRecord
from captcha_assets.images.index import INDEX_SCHEMA
from captcha_assets.images.splits import DEFAULT_RATIOS, SPLITS_SCHEMA, SplitRatios
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.quality import frames, pictures, report, suites
from captcha_assets.quality.frames import QualityError
from captcha_assets.quality.suites import Measure, Rule
from captcha_assets.quality.thresholds import CHECKS, Check
from captcha_assets.quality.verdict import Finding, Verdict
from captcha_assets.storage import AnyPath

# The import leaves hundreds of thousands of objects that stay for ever. Unless told so, the garbage collector
# goes through all of them once in the middle of the work and once at the end, half a second each.
gc.freeze()

__all__ = ["QualityError", "judge_image_index", "judge_image_table", "judge_splits"]


def judge_image_table(table: AnyPath, rejected: AnyPath, spec: DatasetSpec) -> tuple[Verdict, str]:
    """Judge one delivery: its usable and its refused members.

    Args:
        table: the delivery's image table.
        rejected: its refused members.
        spec: what the images look like.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: one of the tables is absent or cannot be read.
    """
    lazy, refused = frames.scan(table), frames.scan(rejected).collect()
    described = frames.columns(lazy, IMAGE_TABLE_SCHEMA)
    rules = [suites.columns(described)]
    if frames.sound(described):
        rows = frames.images(table)
        rules += suites.image_table(rows, frames.classes(rows, spec), refused, spec)
    return _reported(
        "image_table",
        f"image_table/{table.stem}",
        rules,
        frames.rows(lazy),
        tables={table.stem: table},
        spec=spec,
    )


def judge_image_index(
    index: AnyPath, spec: DatasetSpec, tables: Mapping[str, AnyPath] | None = None
) -> tuple[Verdict, str]:
    """Judge the index of all distinct images.

    Args:
        index: the image index.
        spec: what the images look like.
        tables: image tables by delivery; the examples' pictures are taken from them.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: a table is absent or cannot be read.
    """
    lazy = frames.scan(index)
    described = frames.columns(lazy, INDEX_SCHEMA)
    rules = [suites.columns(described)]
    if frames.sound(described):
        rules += suites.image_index(frames.index(lazy), frames.conflicts(lazy), spec)
    rows = frames.rows(lazy)
    return _reported("image_index", "image_index", rules, rows, tables=tables or {}, spec=spec)


def judge_splits(
    splits: AnyPath,
    index: AnyPath,
    record: AssignmentRecord,
    spec: DatasetSpec,
    tables: Mapping[str, AnyPath] | None = None,
    *,
    ratios: SplitRatios = DEFAULT_RATIOS,
) -> tuple[Verdict, str]:
    """Judge the splits of the images.

    Args:
        splits: the split of every image.
        index: the image index that the splits were made for.
        record: the split assignments.
        spec: what the images look like.
        tables: image tables by delivery; the examples' pictures are taken from them.
        ratios: the share of each split.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: a table is absent or cannot be read.
        AssignmentError: the record is damaged.
    """
    lazy, images = frames.scan(splits), frames.scan(index)
    described = frames.columns(lazy, SPLITS_SCHEMA)
    rules = [suites.columns(described)]
    if frames.sound(described):
        known, recorded = frames.known_images(images), record.read()
        rules += suites.splits(frames.placed(lazy, known, recorded), known, recorded, asdict(ratios))
    rows = frames.rows(lazy)
    return _reported("splits", "splits", rules, rows, tables=tables or {}, spec=spec)


def _reported(
    table: str,
    subject: str,
    rules: Sequence[Rule],
    rows: int,
    *,
    tables: Mapping[str, AnyPath],
    spec: DatasetSpec,
) -> tuple[Verdict, str]:
    results = _validate([measure for rule in rules for measure in rule.measures])
    by_check = {rule.check: rule for rule in rules}
    findings = tuple(
        _finding(check, rule, [results[measure.name] for measure in rule.measures])
        if (rule := by_check.get(check.name))
        else _not_judged(check)
        for check in CHECKS[table]
    )
    verdict = Verdict(subject, findings, rows, pictures.of_examples(findings, tables, spec))
    return verdict, report.page(verdict)


@cache
def _batches() -> BatchDefinition:
    """Great Expectations, set up once in a process: it keeps nothing and asks nobody."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("measures")
    return asset.add_batch_definition_whole_dataframe("one verdict")


def _validate(measures: Sequence[Measure]) -> dict[str, ExpectationValidationResult]:
    """Judge all the measures of a verdict as one row; the results go by their names."""
    values = pd.DataFrame([{measure.name: measure.value for measure in measures}])
    batch = _batches().get_batch({"dataframe": values})
    suite = gx.ExpectationSuite(name="measures")
    for name, _, at_least, at_most in measures:
        limits = ExpectColumnMaxToBeBetween(column=name, min_value=at_least, max_value=at_most)
        suite.add_expectation(limits)
    return {_name(result): result for result in batch.validate(suite).results}


def _name(result: ExpectationValidationResult) -> str:
    assert result.expectation_config is not None, "the result of an expectation says which one"
    return str(result.expectation_config.kwargs["column"])


def _not_judged(check: Check) -> Finding:
    why = "not judged: the columns are not what they should be"
    return Finding(
        check.name, check.description, "the columns and types of this table", why, False, check.blocking
    )


def _finding(check: Check, rule: Rule, results: Sequence[ExpectationValidationResult]) -> Finding:
    return Finding(
        check.name,
        check.description,
        rule.expected,
        "; ".join([*_errors(results), rule.found]),
        all(result.success for result in results),
        check.blocking,
        [_plain(example) for example in rule.examples.to_dicts()],
        rule.total,
    )


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that JSON knows: it knows no infinity, no NaN, and 32-bit floats show noise."""
    return {
        name: (float(f"{value:.6g}") if math.isfinite(value) else str(value))
        if isinstance(value, float)
        else value
        for name, value in example.items()
    }


def _errors(results: Iterable[ExpectationValidationResult]) -> list[str]:
    """Return why expectations could not be judged at all: one exception, or one for each metric."""
    infos = [result.exception_info or {} for result in results]
    nested = [one for info in infos for one in ([info] if "raised_exception" in info else info.values())]
    messages = [one["exception_message"] for one in nested if one["raised_exception"]]
    return [f"could not be judged: {message}" for message in dict.fromkeys(messages)]
