"""The drift report of a day of the service, and the check of its severity."""

from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import DAY, days
from captcha_assets.defs.presentation import image, link, table
from captcha_assets.served_predictions.log_access import require_valid
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.monitoring.drift_report import DailyDrift
    from captcha_assets.monitoring.result import ServedDrift

#: So many of the unusual images are shown in the UI; the report shows all.
_IMAGES = 12

SERVED_DRIFT = dg.AssetCheckSpec(
    "served_drift",
    asset="drift_report",
    description="The images and predictions of the day have the distributions that the model was trained and "
    "validated on. "
    "Critical drift is an error, other drift a warning.",
    partitions_def=days,
)


# No dependency on `champion`: a report compares the predictions of a day with the model that gave them, so
# that a promotion makes no report of an earlier day stale.
@dg.asset(
    partitions_def=days,
    deps=["prediction_log"],
    group_name="serving",
    kinds={"scipy", "onnx"},
    code_version="1",
    check_specs=[SERVED_DRIFT],
    description="How the images and predictions of a day, and of the last 7 days together, differ from what "
    "the model was trained and validated on: input statistics, predicted classes, probabilities, features, "
    "and the error rate that corrections prove.",
)
def drift_report(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    dataset: dg.ResourceParam[DatasetSpec],
) -> dg.MaterializeResult:
    """Compare the day's predictions, and write the report."""
    from captcha_assets.atomic_files import fetched
    from captcha_assets.models.manifest import read_manifest
    from captcha_assets.monitoring import drift_report

    day = context.partition_key
    require_valid(settings.paths, day)
    known = context.instance.get_dynamic_partitions(names_of(context).name(DAY))
    drift = drift_report.report_of_day(settings.paths, day, known, dataset)
    folder = settings.paths.drift_report(day)
    with fetched(folder) as local:
        version = str(read_manifest(local)["version"])
    report = link(settings, folder / drift_report.REPORT)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        check_results=[_check_result(drift, report)],
        metadata={
            "severity": drift.result.severity,
            "model": drift.result.model_id,
            "predictions": drift.result.windows[0].predictions,
            "path": dg.MetadataValue.path(str(folder)),
            "report": report,
        },
    )


def _check_result(drift: "DailyDrift", report: dg.MetadataValue) -> dg.AssetCheckResult:
    result = drift.result
    levels = {"critical": dg.AssetCheckSeverity.ERROR}
    metadata = {name: image(png, name) for name, png in drift.plots.items()}
    if drift.images:
        metadata["most unusual images"] = _gallery(drift)
    return dg.AssetCheckResult(
        check_name=SERVED_DRIFT.name,
        passed=result.severity == "none",
        severity=levels.get(result.severity, dg.AssetCheckSeverity.WARN),
        description="; ".join(result.sentences) or "as the model was trained and validated",
        metadata={"severity": result.severity, "tests": _tests(result), "report": report, **metadata},
    )


def _tests(result: "ServedDrift") -> dg.TableMetadataValue:
    """Return the tests that drifted, as a table."""
    rows = (
        {
            "compared": test.family,
            "found": test.words,
            "effect": float(f"{test.effect:.3g}"),
            "p": float(f"{test.corrected:.2g}"),
            "severity": test.severity,
        }
        for test in result.tests
        if test.severity != "none"
    )
    types = {"compared": "string", "found": "string", "effect": "float", "p": "float", "severity": "string"}
    return table(rows, types)


def _gallery(drift: "DailyDrift") -> dg.MarkdownMetadataValue:
    shown = [one for one in drift.result.unusual if one.inference_id in drift.images][:_IMAGES]
    images = (image(drift.images[one.inference_id], one.label).value for one in shown)
    return dg.MetadataValue.md(" ".join(str(each) for each in images))
