"""From an archive to validated tables, one partition per delivery. The work is in `captcha_assets.images`."""

from collections.abc import Iterator

import dagster as dg

from captcha_assets.dataset import CAPTCHA
from captcha_assets.defs.images.checks import DRIFT, drift_of
from captcha_assets.defs.images.quarantine import show_as_failed, state_of
from captcha_assets.defs.partitions import BATCH, batches
from captcha_assets.defs.presentation import check_specs, column_schema, counts, history, published
from captcha_assets.images import features, table
from captcha_assets.quality import suites
from captcha_assets.quality.validation_result import QuarantinedError
from captcha_assets.settings import Settings


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "image_table",
            deps=["raw_batch"],
            group_name="images",
            kinds={"parquet", "polars", "great_expectations"},
            # tables of another signature cannot be compared; other expectations have other results
            code_version=f"1.{features.SIGNATURE_VERSION}.{suites.version('image_table', CAPTCHA)}",
            description="One row per usable image: pixels, label, hashes, statistics, provenance.",
            metadata=column_schema(table.IMAGE_TABLE_SCHEMA, table.COLUMN_DESCRIPTIONS),
        ),
        dg.AssetSpec(
            "rejected_images",
            deps=["raw_batch"],
            group_name="images",
            kinds={"parquet"},
            code_version="1",
            description="One row per refused member of a delivery: name, reason, detail.",
            metadata=column_schema(table.REJECTED_SCHEMA, table.COLUMN_DESCRIPTIONS),
        ),
    ],
    check_specs=[*check_specs("image_table", suites.expectations("image_table", CAPTCHA), batches), DRIFT],
    partitions_def=batches,
)
def image_tables(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.MaterializeResult]:
    """Decode, check and hash a delivery's images, and validate the result before anyone uses it."""
    from captcha_assets.quality import validation

    batch = context.partition_key
    image_table, rejected = settings.image_table(batch), settings.rejected_images(batch)
    summary = table.build_image_table(settings.raw / f"{batch}.zip", batch, image_table, rejected)
    found = validation.validate_image_table(image_table, rejected, CAPTCHA)
    results, report = published(settings, found, "image_table", batch)
    drift = drift_of(settings, batch)
    yield dg.MaterializeResult(
        "image_table",
        data_version=dg.DataVersion(summary.table_version),
        check_results=[*results, drift.result],
        metadata={
            "state": state_of(found),
            "quality report": report,
            "history of the checks": history(settings, context.instance.get_dynamic_partitions(BATCH)),
            "dagster/partition_row_count": summary.images,
            "duplicates within": summary.duplicates_within,
            "converted to grayscale": summary.converted,
            **drift.figures,
            "images by class": counts(summary.images_by_class, "class"),
            "path": dg.MetadataValue.path(str(image_table)),
        },
    )
    yield dg.MaterializeResult(
        "rejected_images",
        data_version=dg.DataVersion(summary.rejected_version),
        metadata={
            "dagster/partition_row_count": summary.rejected,
            "images by reason": counts(summary.rejected_by_reason, "reason"),
            "path": dg.MetadataValue.path(str(rejected)),
        },
    )
    if not found.passed:
        show_as_failed(context, dg.AssetKey("image_table"))
        raise QuarantinedError(batch, found)
