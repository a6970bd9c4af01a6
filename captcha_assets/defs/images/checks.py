"""The drift check of a batch against the champion's training images: a warning that blocks nothing."""

from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.defs.partitions import batches
from captcha_assets.defs.presentation import image, link, table
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.models.batch_drift import BatchDrift, Comparison

DRIFT = dg.AssetCheckSpec(
    "drift",
    asset="image_table",
    description="The batch has the statistics of the images that the champion was trained on.",
    partitions_def=batches,
)


def drift_result(settings: Settings, drift: "BatchDrift") -> dg.AssetCheckResult:
    """Return the drift of a batch as Dagster shows it."""
    result = dg.AssetCheckResult(
        asset_key="image_table",
        check_name=DRIFT.name,
        passed=drift.passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=drift.description,
    )
    compared = drift.comparison
    if compared is None:
        return result
    return result.with_metadata(
        {
            "differences": _differences(compared),
            "observed": compared.observed,
            "compared with": compared.model_id,
            "distributions": image(compared.plot, "distributions"),
            "report": link(settings, compared.report),
        }
    )


def _differences(compared: "Comparison") -> dg.TableMetadataValue:
    """Return the size of each difference and its threshold, as a table.

    Numbers of their own would be plotted over time, all batches in one line.
    """
    rows = (
        {
            "feature": feature.title,
            "difference": float(f"{feature.statistic:.3g}"),
            "at most": float(f"{feature.threshold:.3g}"),
            "drifted": "no" if feature.passed else "yes",
        }
        for feature in compared.features
    )
    return table(rows, {"feature": "string", "difference": "float", "at most": "float", "drifted": "string"})
