"""From an archive to validated tables, one partition per batch. The work is in `captcha_assets.images`."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.images.checks import DRIFT, drift_result
from captcha_assets.defs.images.quarantine import show_as_failed
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import BATCH, batches
from captcha_assets.defs.presentation import check_specs, column_schema, counts, link, published
from captcha_assets.images import features, table
from captcha_assets.quality import suites
from captcha_assets.quality.validation_result import QuarantinedError
from captcha_assets.settings import Settings


def _specs(spec: DatasetSpec) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            "image_table",
            deps=["raw_batch"],
            group_name="images",
            kinds={"parquet", "polars", "great_expectations"},
            # tables of another signature cannot be compared; other expectations have other results
            code_version=f"2.{features.SIGNATURE_VERSION}.{suites.version('image_table', spec)}"
            f".{spec.version}",
            description="One row per usable image: pixels, label, hashes, statistics, provenance.",
            metadata=column_schema(table.IMAGE_TABLE_SCHEMA, table.COLUMN_DESCRIPTIONS),
        ),
        dg.AssetSpec(
            "rejected_images",
            deps=["raw_batch"],
            group_name="images",
            kinds={"parquet"},
            code_version=f"1.{spec.version}",
            description="One row per rejected member of a batch: name, reason, detail.",
            metadata=column_schema(table.REJECTED_SCHEMA, table.COLUMN_DESCRIPTIONS),
        ),
    ]


def image_tables(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the assets of a batch's images for a data set."""

    @dg.multi_asset(
        specs=_specs(spec),
        check_specs=[*check_specs("image_table", suites.expectations("image_table", spec), batches), DRIFT],
        partitions_def=batches,
    )
    def image_tables(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> Iterator[dg.MaterializeResult]:
        """Decode, check and hash a batch's images, and validate the result."""
        from captcha_assets.models import batch_drift
        from captcha_assets.quality import report, validation

        batch, names = context.partition_key, names_of(context)
        image_table, rejected = settings.paths.image_table(batch), settings.paths.rejected_images(batch)
        with fetched(settings.paths.raw / f"{batch}.zip") as archive:
            summary = table.build_image_table(archive, batch, image_table, rejected, spec)
        found = validation.validate_image_table(image_table, rejected, spec)
        results, address = published(settings, found, "image_table", batch)
        drift = batch_drift.compare_with_champion(settings.paths, batch, spec)
        batches_now = context.instance.get_dynamic_partitions(names.name(BATCH))
        history = report.publish_history(settings.paths, batches_now)
        yield dg.MaterializeResult(
            "image_table",
            data_version=dg.DataVersion(summary.table_version),
            check_results=[*results, drift_result(settings, drift)],
            metadata={
                "state": found.state,
                "quality report": address,
                "history of the checks": link(settings, history),
                **(drift.comparison.sizes if drift.comparison else {}),
                **_figures(summary, image_table),
            },
        )
        yield _rejected(summary, rejected)
        if not found.passed:
            show_as_failed(context, names.key("image_table"))
            raise QuarantinedError(batch, found)

    return image_tables


def _figures(summary: table.IngestSummary, image_table: AnyPath) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": summary.images,
        "duplicates within": summary.duplicates_within,
        "converted to the data set's colour mode": summary.converted,
        "images by class": counts(summary.images_by_class, "class"),
        "path": dg.MetadataValue.path(str(image_table)),
    }


def _rejected(summary: table.IngestSummary, rejected: AnyPath) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        "rejected_images",
        data_version=dg.DataVersion(summary.rejected_version),
        metadata={
            "dagster/partition_row_count": summary.rejected,
            "images by reason": counts(summary.rejected_by_reason, "reason"),
            "path": dg.MetadataValue.path(str(rejected)),
        },
    )
