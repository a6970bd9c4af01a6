"""Great Expectations in, a plain verdict out: the image table, the image index and the splits are judged.

Importing this module imports Great Expectations, which takes seconds: import it where a table is judged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import great_expectations as gx
import polars as pl
from great_expectations.core.expectation_validation_result import ExpectationValidationResult
from great_expectations.data_context.data_context.abstract_data_context import AbstractDataContext
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from captcha_assets.images.index import INDEX_SCHEMA, LABEL_CONFLICT
from captcha_assets.images.splits import DEFAULT_RATIOS, SPLITS_SCHEMA, SplitRatios
from captcha_assets.images.table import IMAGE_TABLE_SCHEMA
from captcha_assets.quality import frames, pictures, report, suites
from captcha_assets.quality.frames import Frame, QualityError
from captcha_assets.quality.suites import Rule
from captcha_assets.quality.thresholds import CHECKS, Check
from captcha_assets.quality.verdict import MAX_EXAMPLES, Finding, Verdict
from captcha_assets.storage import AnyPath

__all__ = ["QualityError", "judge_image_index", "judge_image_table", "judge_splits"]


def judge_image_table(table: AnyPath, rejected: AnyPath) -> tuple[Verdict, str]:
    """Judge one delivery: its usable and its refused members.

    Args:
        table: the delivery's image table.
        rejected: its refused members.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: one of the tables is absent or cannot be read.
    """
    lazy, refused = frames.scan(table), frames.scan(rejected).collect()
    parts = {"columns": frames.columns(lazy, IMAGE_TABLE_SCHEMA)}
    rules = [suites.columns(parts["columns"])]
    if frames.sound(parts["columns"]):
        parts["images"] = frames.images(table)
        parts["delivery"] = frames.delivery(len(parts["images"].rows), len(refused))
        parts["classes"] = frames.classes(parts["images"].rows)
        rules += suites.image_table(parts, refused)
    findings = _judge("image_table", parts, rules)
    return _reported(f"image_table/{table.stem}", findings, lazy, {table.stem: table})


def judge_image_index(index: AnyPath, tables: Mapping[str, AnyPath] | None = None) -> tuple[Verdict, str]:
    """Judge the index of all distinct images.

    Args:
        index: the image index.
        tables: image tables by delivery; the examples' pictures are taken from them.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: a table is absent or cannot be read.
    """
    lazy = frames.scan(index)
    parts = {"columns": frames.columns(lazy, INDEX_SCHEMA)}
    rules = [suites.columns(parts["columns"])]
    if frames.sound(parts["columns"]):
        parts["images"] = frames.index(lazy)
        parts["grouped"] = frames.grouped(parts["images"].rows)
        in_conflict = int((parts["images"].rows["status"] == LABEL_CONFLICT).sum())
        parts["conflicts"] = frames.share(in_conflict, len(parts["images"].rows), "indexes")
        rules += suites.image_index(parts["images"].rows, frames.conflicts(lazy, MAX_EXAMPLES))
    return _reported("image_index", _judge("image_index", parts, rules), lazy, tables or {})


def judge_splits(
    splits: AnyPath,
    index: AnyPath,
    tables: Mapping[str, AnyPath] | None = None,
    ratios: SplitRatios = DEFAULT_RATIOS,
) -> tuple[Verdict, str]:
    """Judge the places that the images were given.

    Args:
        splits: the place of every image.
        index: the image index that the places were made for.
        tables: image tables by delivery; the examples' pictures are taken from them.
        ratios: the share of each split.

    Returns:
        The verdict and its report as a page of HTML.

    Raises:
        QualityError: a table is absent or cannot be read.
    """
    lazy, known = frames.scan(splits), frames.scan(index)
    parts = {"columns": frames.columns(lazy, SPLITS_SCHEMA)}
    rules = [suites.columns(parts["columns"])]
    if frames.sound(parts["columns"]):
        wanted = asdict(ratios)
        parts |= _split_frames(lazy, known, wanted)
        rules += suites.splits(parts, wanted)
    return _reported("splits", _judge("splits", parts, rules), lazy, tables or {})


def _split_frames(splits: pl.LazyFrame, index: pl.LazyFrame, wanted: Mapping[str, float]) -> dict[str, Frame]:
    images = frames.placed(splits, index)
    held = int(images.rows["held_back"].count())
    return {
        "images": images,
        "image_ids": frames.extremes(images.rows, "image_id"),
        "groups": frames.extremes(images.rows, "group"),
        "pairs": frames.near_duplicates(images.rows, index),
        "places": frames.ratios(images.rows, wanted),
        "absent": frames.missing_images(splits, index),
        "held": frames.share(held, len(images.rows), "splits"),
    }


def _reported(
    subject: str, findings: tuple[Finding, ...], table: pl.LazyFrame, tables: Mapping[str, AnyPath]
) -> tuple[Verdict, str]:
    rows = table.select(pl.len()).collect().item()
    verdict = Verdict(subject, findings, rows, pictures.of_examples(findings, tables))
    return verdict, report.page(verdict)


def _judge(table: str, parts: Mapping[str, Frame], rules: Sequence[Rule]) -> tuple[Finding, ...]:
    """Validate each frame once, with all the expectations on it, and gather the results by check."""
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(enable=False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    results: dict[str, list[ExpectationValidationResult]] = {rule.check: [] for rule in rules}
    for name, frame in parts.items():
        suite = _suite(name, [rule for rule in rules if rule.frame == name])
        for result in _validate(context, name, frame, suite):
            results[_configuration(result).meta["check"]].append(result)
    by_check = {rule.check: rule for rule in rules}
    return tuple(
        _finding(check, rule, parts[rule.frame], results[check.name])
        if (rule := by_check.get(check.name))
        else _not_judged(check)
        for check in CHECKS[table]
    )


def _configuration(result: ExpectationValidationResult) -> ExpectationConfiguration:
    assert result.expectation_config is not None, "the result of an expectation says which one"
    return result.expectation_config


def _suite(name: str, rules: Iterable[Rule]) -> gx.ExpectationSuite:
    suite = gx.ExpectationSuite(name=name)
    for rule in rules:
        for expectation in rule.expectations:
            expectation.meta = {"check": rule.check}
            suite.add_expectation(expectation)
    return suite


def _validate(
    context: AbstractDataContext, name: str, frame: Frame, suite: gx.ExpectationSuite
) -> list[ExpectationValidationResult]:
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    whole = asset.add_batch_definition_whole_dataframe(name)
    batch = whole.get_batch(batch_parameters={"dataframe": _looked_at(frame, suite).to_pandas()})
    result_format = {
        "result_format": "COMPLETE",
        "partial_unexpected_count": MAX_EXAMPLES,
        "return_unexpected_index_query": False,
    }
    return batch.validate(suite, result_format=result_format).results


def _not_judged(check: Check) -> Finding:
    why = "not judged: the columns are not what they should be"
    return Finding(
        check.name, check.description, "the columns and types of this table", why, False, check.blocking
    )


def _finding(
    check: Check, rule: Rule, frame: Frame, results: Sequence[ExpectationValidationResult]
) -> Finding:
    passed = all(result.success for result in results)
    examples, total, observed = rule.examples, rule.total, rule.found
    if examples is None:
        unexpected = _unexpected_rows(results)
        examples, total = _example_rows(frame, unexpected[:MAX_EXAMPLES], results), len(unexpected)
        others = f"{total:,} of {len(frame.rows):,} {frame.unit} are not as expected; " if total else ""
        observed = others + observed
    return Finding(
        check.name,
        check.description,
        rule.expected,
        "; ".join([*_errors(results), observed]),
        passed,
        check.blocking,
        [_plain(example) for example in examples.to_dicts()],
        total,
    )


def _unexpected_rows(results: Iterable[ExpectationValidationResult]) -> list[int]:
    """Return the positions of the rows that any of the expectations refuses."""
    return sorted({row for result in results for row in result.result.get("unexpected_index_list") or []})


def _example_rows(
    frame: Frame, positions: Sequence[int], results: Iterable[ExpectationValidationResult]
) -> pl.DataFrame:
    """Return those rows with what identifies them and the columns that were looked at."""
    looked_at = (name for result in results for name in _columns(_configuration(result)))
    return frame.rows[list(positions)].select(list(dict.fromkeys([*frame.key, *looked_at])))


def _columns(expectation: ExpectationConfiguration) -> list[str]:
    return [
        expectation.kwargs[name] for name in ("column", "column_A", "column_B") if name in expectation.kwargs
    ]


def _looked_at(frame: Frame, suite: gx.ExpectationSuite) -> pl.DataFrame:
    """Return the columns that the suite needs: Great Expectations copies what it is given."""
    needed = {name for expectation in suite.expectations for name in _columns(expectation.configuration)}
    return frame.rows.select(sorted(needed) or frame.rows.columns[:1])


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
