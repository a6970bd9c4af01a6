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
from captcha_assets.quality import verdict
from captcha_assets.quality.verdict import Finding, Verdict, VerdictError
from captcha_assets.settings import Settings
from captcha_assets.storage import AnyPath, replacing

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)

#: So many deliveries stand on the page of the history: more nobody reads, and each costs a file to open.
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

    found = list_conflicts(settings.image_index)
    write_conflicts(found, settings.label_conflicts)
    if found.is_empty():
        return {}
    return {
        "conflicts": dg.MetadataValue.md(conflicts.markdown(found, tables, settings.label_decisions, spec)),
        "all conflicts": link(settings, settings.label_conflicts),
    }


def check_specs(
    asset: str, checks: Iterable[Any], partitions: dg.PartitionsDefinition | None = None
) -> list[dg.AssetCheckSpec]:
    """Declare the quality checks of one table, by partition where the table is partitioned."""
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=asset,
            description=check.description,
            blocking=check.blocking,
            partitions_def=partitions,
        )
        for check in checks
    ]


def published(
    settings: Settings, judgement: tuple[Verdict, str], table: str, batch: str | None = None
) -> tuple[list[dg.AssetCheckResult], dg.MetadataValue]:
    """Keep a verdict and its report.

    Returns:
        One check result per finding (what was expected, what was found, the failing examples as
        pictures), and the link to the report.
    """
    judged, page = judgement
    folder = settings.verdict(table, batch)
    verdict.save(judged, page, folder)
    report = link(settings, folder / "report.html")
    results = [
        _check_result(finding, table, report, judged.pictures, plotted=batch is None)
        for finding in judged.findings
    ]
    return results, report


def history(settings: Settings, batches: Sequence[str]) -> dg.MetadataValue:
    """Write the page that shows every check of the latest deliveries, drift among them.

    Args:
        settings: where verdicts lie.
        batches: all deliveries, in the order in which they came.

    Returns:
        The link to the page.
    """
    from captcha_assets.quality import report as quality_report

    shown = {name: judged for name in batches[-_LATEST:] if (judged := _judged(settings, name)) is not None}
    page = settings.verdict("image_table") / "index.html"
    with replacing(page) as part:
        part.write_text(quality_report.history(shown, of=len(batches)), "utf-8", "backslashreplace")
    return link(settings, page)


def _judged(settings: Settings, batch: str) -> Verdict | None:
    """What was found about a delivery, its drift as one more finding; None where it was not judged yet."""
    try:
        judged = verdict.load(settings.verdict("image_table", batch))
    except VerdictError:
        return None
    try:
        drift = verdict.load(settings.verdict("drift", batch))
    except VerdictError:
        return judged
    return replace(judged, findings=(*judged.findings, verdict.as_one("drift", drift.findings)))


def _check_result(
    finding: Finding, asset: str, report: dg.MetadataValue, pictures: Mapping[str, str], *, plotted: bool
) -> dg.AssetCheckResult:
    """Return a finding as Dagster shows it.

    Args:
        finding: what was found.
        asset: the table.
        report: the link to the report.
        pictures: see `Verdict.pictures`.
        plotted: whether the UI may plot numbers over time: of a batch's check it would draw one line
            through all batches.
    """
    from captcha_assets.quality import report as quality_report

    rows = finding.total_unexpected
    metadata: dict[str, Any] = {
        "expected": finding.expected,
        "observed": finding.observed,
        "failing rows": rows if plotted else f"{rows:,}",
        "report": report,
    }
    if finding.examples:
        metadata["examples"] = dg.MetadataValue.md(quality_report.markdown(finding, pictures))
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=finding.name,
        passed=finding.passed,
        severity=dg.AssetCheckSeverity.ERROR if finding.blocking else dg.AssetCheckSeverity.WARN,
        description=f"expected {finding.expected}; found {finding.observed}",
        metadata=metadata,
    )
