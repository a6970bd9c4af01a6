"""How results of the library look in the Dagster UI: schemas, pictures, checks, links."""

import base64
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pyarrow as pa

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.decisions import write_conflicts
from captcha_assets.images.index import list_conflicts
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.quality.suites import Suite
from captcha_assets.quality.validation_result import (
    ExpectationResult,
    ValidationResult,
    ValidationResultError,
)
from captcha_assets.settings import Settings
from captcha_assets.storage import AnyPath, replacing

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)

#: So many batches stand on the page of the history: more nobody reads, and each costs a file to open.
_LATEST = 200


def column_schema(schema: pa.Schema, descriptions: Mapping[str, str]) -> dict[str, Any]:
    """Metadata that shows a table's columns, their types and what they mean."""
    columns = [
        dg.TableColumn(field.name, str(field.type), description=descriptions.get(field.name))
        for field in schema
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def column_lineage(origins: Mapping[str, Iterable[tuple[str, str]]]) -> dict[str, Any]:
    """Metadata that says from which columns of which assets each column of a table is made."""
    deps = {
        column: [dg.TableColumnDep(asset, name) for asset, name in sources]
        for column, sources in origins.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps)}


def picture(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """A picture that the UI shows behind [Show Markdown]."""
    return dg.MetadataValue.md(f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})")


def counts(values: Mapping[str, int], name: str) -> dg.TableMetadataValue:
    """A two-column table of counts."""
    records = [dg.TableRecord({name: key, "images": value}) for key, value in values.items()]
    return dg.MetadataValue.table(records, _count_schema(name))


def _count_schema(name: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, "string"), dg.TableColumn("images", "int")])


def link(settings: Settings, path: AnyPath) -> dg.MetadataValue:
    """A link to a file among the artifacts, as the report server shows it."""
    return dg.MetadataValue.url(settings.public_url(path))


def conflict_metadata(
    settings: Settings, tables: Mapping[str, AnyPath], spec: DatasetSpec
) -> dict[str, dg.MetadataValue]:
    """Write the file of all label conflicts, and show the first of them with what to do."""
    from captcha_assets.quality import conflicts

    found = list_conflicts(settings.paths.image_index)
    write_conflicts(found, settings.paths.label_conflicts)
    if found.is_empty():
        return {}
    return {
        "conflicts": dg.MetadataValue.md(
            conflicts.markdown(found, tables, settings.paths.label_decisions, spec)
        ),
        "all conflicts": link(settings, settings.paths.label_conflicts),
    }


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
    """Keep validation results and their report.

    Returns:
        One check result for each expectation (what was expected, what was found, the unexpected rows with
        their images), and the link to the report.
    """
    from captcha_assets.quality import report

    folder = settings.paths.validation_results(asset, batch)
    validation_result.save(validation, report.page(validation), folder)
    address = link(settings, folder / validation_result.REPORT_FILE)
    results = [
        _check_result(result, asset, address, validation.images, plotted=batch is None)
        for result in validation.results
    ]
    return results, address


def history(settings: Settings, batches: Sequence[str]) -> dg.MetadataValue:
    """Write the page that shows every check of the latest batches, drift among them.

    Args:
        settings: where validation results lie.
        batches: all batches, in the order in which they came.

    Returns:
        The link to the page.
    """
    from captcha_assets.quality import report

    shown = {name: found for name in batches[-_LATEST:] if (found := _with_drift(settings.paths, name))}
    page = settings.paths.validation_results("image_table") / "index.html"
    with replacing(page) as part:
        part.write_text(report.history(shown, of=len(batches)), "utf-8", "backslashreplace")
    return link(settings, page)


def _with_drift(paths: Paths, batch: str) -> ValidationResult | None:
    """Return the validation results of a batch, its drift among them; None where there are none yet."""
    try:
        found = validation_result.load(paths.validation_results("image_table", batch))
    except ValidationResultError:
        return None
    try:
        drift = validation_result.load(paths.validation_results("drift", batch))
    except ValidationResultError:
        return found
    return replace(found, suites=[*found.suites, *drift.suites])


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
        description=f"expected {result.expected}; found {result.observed}",
        metadata=metadata,
    )
