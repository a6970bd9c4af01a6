"""Does a batch look like what the champion was trained on? A warning, never a stop."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.partitions import batches
from captcha_assets.defs.presentation import link, picture
from captcha_assets.models import registry
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.quality.drift import DriftFeature, DriftResult, Summary

DRIFT = dg.AssetCheckSpec(
    "drift",
    asset="image_table",
    description="The batch looks like what the champion was trained on.",
    partitions_def=batches,
)


@dataclass(frozen=True)
class Drift:
    """The result of the check, and figures for the metadata of the batch's table: plotted by batch."""

    result: dg.AssetCheckResult
    figures: dict[str, float] = field(default_factory=dict)


def drift_of(settings: Settings, batch: str, spec: DatasetSpec) -> Drift:
    """Compare a batch's table with the training images of the champion, if there is one."""
    champion = registry.champion(settings.paths.models)
    if champion is None:
        return _not_compared("no champion yet to compare with")
    trained_on = settings.paths.training_summary(champion.model_id)
    if not trained_on.exists():
        return _not_compared(f"nothing is known of what the champion {champion.model_id} was trained on")
    from captcha_assets.quality import drift

    try:
        reference = drift.load(trained_on, spec)
    except drift.DriftError as error:
        return _not_compared(f"no comparison: {error}", passed=False)
    if reference.images < drift.MIN_REFERENCE:
        return _not_compared(f"the champion was trained on {reference.images} images, too few to compare")
    images = drift.summarize([settings.paths.image_table(batch)], spec)
    if images.images == 0:
        return _not_compared("no usable images to compare")
    return _compared(settings, batch, spec, (reference, images), champion.model_id)


def _not_compared(words: str, *, passed: bool = True) -> Drift:
    return Drift(_result(passed=passed, words=words))


def _compared(
    settings: Settings,
    batch: str,
    spec: DatasetSpec,
    summaries: tuple["Summary", "Summary"],
    model_id: str,
) -> Drift:
    """Compare the summary of the training images of a model with that of a batch."""
    from captcha_assets.quality import drift, drift_plot, report, validation, validation_result

    reference, images = summaries
    found = drift.compare(reference, images)
    figures = {"distributions": drift_plot.plot(reference, images, found)}
    subject, folder = f"drift/{batch}", settings.paths.validation_results("drift", batch)
    validated = validation.validate("drift", subject, {"drift": found.table()}, spec, rows=images.images)
    validation_result.save(validated, report.page(validated, figures), folder)
    drifted = ", ".join(_plain(feature) for feature in found.drifted)
    result = _result(
        passed=found.passed, words=f"drifted: {drifted}" if drifted else "as the training images"
    ).with_metadata(
        {
            "differences": _differences(found),
            "observed": validated.results[0].observed,
            "compared with": model_id,
            "distributions": picture(figures["distributions"], "distributions"),
            "report": link(settings, folder / "report.html"),
        }
    )
    sizes = {f"drift of {_plain(feature)}": round(feature.statistic, 4) for feature in found.features}
    return Drift(result, sizes)


def _plain(feature: "DriftFeature") -> str:
    return feature.name.replace("_", " ")


def _differences(found: "DriftResult") -> dg.TableMetadataValue:
    """Return the size of each difference and the most that is tolerated, as a table.

    Numbers of their own would be plotted over time, all batches in one line.
    """
    rows = [
        dg.TableRecord(
            {
                "feature": _plain(feature),
                "difference": float(f"{feature.statistic:.3g}"),
                "at most": float(f"{feature.threshold:.3g}"),
                "drifted": "no" if feature.passed else "yes",
            }
        )
        for feature in found.features
    ]
    types = {"feature": "string", "difference": "float", "at most": "float", "drifted": "string"}
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in types.items()])
    return dg.MetadataValue.table(rows, schema)


def _result(*, passed: bool, words: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="image_table",
        check_name=DRIFT.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
    )
