"""Results of the library for the Dagster UI: schemas, tables, images, checks, links."""

import base64
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from captcha_assets.atomic_files import AnyPath
from captcha_assets.quality.suites import Suite
from captcha_assets.quality.validation_result import ExpectationResult, ValidationResult
from captcha_assets.settings import Settings

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)


def column_schema(schema: pa.Schema, descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Return metadata that shows a table's columns, their types and what they mean."""
    columns = [
        dg.TableColumn(field.name, str(field.type), description=descriptions.get(field.name))
        for field in schema
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def column_lineage(origins: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, Any]:
    """Return the column lineage of a table: the columns of other assets that each column is derived from."""
    deps = {
        column: [dg.TableColumnDep(asset, name) for asset, name in sources]
        for column, sources in origins.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def image(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """Return an image that the UI shows behind [Show Markdown]."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def table(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | Sequence[str]
) -> dg.TableMetadataValue:
    """Return rows as a table.

    Args:
        rows: values by column.
        columns: names of the columns, with Dagster's types where they are not strings.
    """
    types = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "string")
    schema = dg.TableSchema([dg.TableColumn(name, type_) for name, type_ in types.items()])
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema)


def counts(values: Mapping[str, int], name: str) -> dg.TableMetadataValue:
    """Return numbers of images by name as a table."""
    rows = ({name: key, "images": value} for key, value in values.items())
    return table(rows, {name: "string", "images": "int"})


def figures(values: Mapping[str, Any]) -> dict[str, int | float | str]:
    """Return the plain values among some as metadata, numbers rounded to four decimals."""
    return {
        name.replace("_", " "): round(value, 4) if isinstance(value, float) else value
        for name, value in values.items()
        if isinstance(value, int | float | str)
    }


def link(settings: Settings, path: AnyPath) -> dg.MetadataValue:
    """Return a link to a file among the artifacts, as the report server shows it."""
    return dg.MetadataValue.url(settings.public_url(path))


def check_specs(
    asset: str, expectations: Suite, partitions: dg.PartitionsDefinition | None = None
) -> list[dg.AssetCheckSpec]:
    """Declare an asset check for each expectation, by partition where the asset is partitioned."""
    return [
        dg.AssetCheckSpec(
            name,
            asset=asset,
            description=expectation.notes,
            blocking=expectation.blocking,
            partitions_def=partitions,
        )
        for name, expectation in expectations.items()
    ]


def published(
    settings: Settings, validation: ValidationResult, asset: str, batch: str | None = None
) -> tuple[list[dg.AssetCheckResult], dg.MetadataValue]:
    """Store validation results and their report.

    Returns:
        One check result for each expectation (what was expected, what was found, the unexpected rows with
        their images), and the link to the report.
    """
    from captcha_assets.quality import report

    address = link(settings, report.publish(validation, settings.paths.validation_results(asset, batch)))
    results = [
        _check_result(result, asset, address, validation.images, plotted=batch is None)
        for result in validation.results
    ]
    return results, address


def _check_result(
    result: ExpectationResult,
    asset: str,
    address: dg.MetadataValue,
    images: Mapping[str, str],
    *,
    plotted: bool,
) -> dg.AssetCheckResult:
    """Return the result of an expectation as Dagster shows it.

    Args:
        result: of one expectation.
        asset: the table.
        address: the link to the report.
        images: see `ValidationResult.images`.
        plotted: whether the UI may plot numbers over time: of a batch's check it would draw one line
            through all batches.
    """
    from captcha_assets.quality import report

    rows = result.unexpected_count
    metadata: dict[str, Any] = {
        "expected": result.expected,
        "observed": result.observed,
        "unexpected rows": rows if plotted else f"{rows:,}",
        "report": address,
    }
    if result.examples:
        metadata["examples"] = dg.MetadataValue.md(report.markdown_table(result.examples, images))
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=result.name,
        passed=result.success,
        severity=dg.AssetCheckSeverity.ERROR if result.blocking else dg.AssetCheckSeverity.WARN,
        description=result.problem or f"expected {result.expected}; found {result.observed}",
        metadata=metadata,
    )
