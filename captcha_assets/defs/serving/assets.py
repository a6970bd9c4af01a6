"""Days of the service: its predictions as tables, its corrected images as batches.

The work is in `captcha_assets.served_predictions` and `captcha_assets.sources.correction_batches`.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs import lost_outputs, presentation
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import BATCH, days
from captcha_assets.defs.presentation import check_specs, column_schema, counts, published
from captcha_assets.defs.serving.correction_checks import CORRECTION_CHECKS, correction_results
from captcha_assets.defs.serving.served_days import SERVED
from captcha_assets.paths import Paths
from captcha_assets.quality import suites
from captcha_assets.served_predictions import daily_tables
from captcha_assets.served_predictions.log_access import NoPredictionsError, log_address, require_valid
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets.sources.batch_registration import FileSource


def prediction_log(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset of a day's predictions for a data set."""

    @dg.asset(
        partitions_def=days,
        deps=[SERVED],
        group_name="serving",
        kinds={"parquet", "sqlalchemy", "great_expectations"},
        code_version=f"1.{suites.version('prediction_log', spec)}",
        description="The predictions of the service on a day: one row per prediction, with its image, its "
        "probabilities and its latest correction.",
        metadata=column_schema(daily_tables.DAILY_SCHEMA, daily_tables.COLUMN_DESCRIPTIONS),
        check_specs=check_specs("prediction_log", suites.expectations("prediction_log", spec), days),
    )
    def prediction_log(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.MaterializeResult:
        """Copy the day's rows from the log, and validate them."""
        from captcha_assets.quality import validation

        day, table = context.partition_key, settings.paths.prediction_log(context.partition_key)
        rejected = settings.paths.rejected_predictions(day)
        written = daily_tables.write_day(_address(settings.paths), day, table, rejected)
        found = validation.validate_prediction_log(table, daily_tables.DAILY_SCHEMA, day, spec)
        results, report = published(settings, found, "prediction_log", day)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(written.version),
            check_results=results,
            metadata={
                "dagster/partition_row_count": written.predictions,
                "corrected": written.corrected,
                "corrected to another class": written.disagreeing,
                "predictions by class": counts(written.by_label, "class"),
                "predictions by model": counts(written.by_model, "model"),
                "path": dg.MetadataValue.path(str(table)),
                "quality report": report,
                **_rejected(context, written.rejected, rejected),
            },
        )

    return prediction_log


#: Most rejected rows that are shown in the UI and on the console; the table holds all of them.
_SHOWN = 20


def _rejected(context: dg.AssetExecutionContext, reasons: Mapping[str, str], path: AnyPath) -> dict[str, Any]:
    """Return what the metadata says of the rows of the log that cannot be read; each gets a warning."""
    rows = [{"inference_id": name, "reason": reason} for name, reason in reasons.items()]
    for row in rows[:_SHOWN]:
        context.log.warning("a row of the log is rejected: %s: %s", row["inference_id"], row["reason"])
    if len(rows) > _SHOWN:
        context.log.warning("%d more rows of the log are rejected: see %s", len(rows) - _SHOWN, path)
    found: dict[str, Any] = {"rejected": len(rows)}
    if rows:
        found["rejected rows"] = presentation.table(rows[:_SHOWN], ["inference_id", "reason"])
        found["path of the rejected rows"] = dg.MetadataValue.path(str(path))
    return found


@dg.asset(
    partitions_def=days,
    deps=["prediction_log"],
    group_name="serving",
    kinds={"zip"},
    code_version="1",
    check_specs=CORRECTION_CHECKS,
    description="The images of a day whose predictions people corrected or confirmed; of several "
    "corrections of a prediction the latest "
    "counts. They are registered as the batch `corrections-<day>` once enough corrections wait.",
)
def corrections(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    dataset: dg.ResourceParam[DatasetSpec],
) -> dg.MaterializeResult:
    """Write the day's corrected images as an archive, and register the batches that are due."""
    from captcha_assets.sources import archives, correction_batches
    from captcha_assets.sources.correction_outcomes import corrected_images

    day, archive = context.partition_key, settings.paths.corrections(context.partition_key)
    require_valid(settings.paths, day)
    found = correction_batches.write_archive(settings.paths.prediction_log(day), archive, dataset)
    waiting = daily_tables.waiting_corrections(_address(settings.paths))
    known = batch_registration.registration(settings.paths, correction_batches.batch_name(day)) is not None
    due = correction_batches.days_to_register(day, waiting, settings.corrections_in_batch, registered=known)
    batches = [batch for one in due if (batch := _registered(context, settings, dataset, one))]
    few = f"none: {sum(waiting.values())} corrections wait, {settings.corrections_in_batch} become batches"
    return dg.MaterializeResult(
        data_version=dg.DataVersion(archives.digest_of(archive).sha256),
        check_results=correction_results(settings.paths, corrected_images(settings.paths, day, dataset)),
        metadata={
            "batches": ", ".join(batches) or few,
            "dagster/partition_row_count": found.images,
            "images by class": counts(found.by_label, "class"),
            "path": dg.MetadataValue.path(str(archive)),
        },
    )


def _registered(
    context: dg.AssetExecutionContext, settings: Settings, dataset: DatasetSpec, day: str
) -> str | None:
    """Register the corrections of a day, and return the batch; None where its table has none yet."""
    from captcha_assets.sources import correction_batches

    archive, table = settings.paths.corrections(day), settings.paths.prediction_log(day)
    if not table.exists():
        return None
    found, batch = (
        correction_batches.write_archive(table, archive, dataset),
        correction_batches.batch_name(day),
    )
    if not found.images:
        return None
    batch_registration.register(settings, batch, FileSource(archive), progress=context.log.info)
    names = names_of(context)
    context.instance.add_dynamic_partitions(names.name(BATCH), [batch])
    lost_outputs.report(settings.paths, context.instance, names)  # the archive of an earlier registration
    daily_tables.record_batch(_address(settings.paths), found.correction_ids, batch)
    return batch


def _address(paths: Paths) -> str:
    address = log_address(paths)
    if address is None:
        raise NoPredictionsError(
            "the prediction log is off: unset CAPTCHA_SERVING_PREDICTION_LOG, or give its address"
        )
    return address
