"""Does a delivery look like what the champion was trained on? A warning, never a stop."""

from typing import TYPE_CHECKING

import dagster as dg

from captcha_assets.defs.presentation import link, picture
from captcha_assets.models import registry
from captcha_assets.settings import Settings

if TYPE_CHECKING:
    from captcha_assets.quality.drift import Summary

DRIFT = dg.AssetCheckSpec(
    "drift",
    asset="image_table",
    description="The delivery looks like what the champion was trained on.",
)


def drift_result(settings: Settings, batch: str) -> dg.AssetCheckResult:
    """Compare a delivery's table with the training images of the champion, if there is one."""
    champion = registry.champion(settings.models)
    if champion is None:
        return _result(passed=True, words="no champion yet to compare with")
    trained_on = settings.training_summary(champion.model_id)
    if not trained_on.exists():
        return _result(passed=True, words=f"nothing is known of what the champion {champion.model_id} saw")
    from captcha_assets.quality import drift

    try:
        reference = drift.load(trained_on)
    except drift.DriftError as error:
        return _result(passed=False, words=f"no comparison: {error}")
    if reference.images < drift.MIN_REFERENCE:
        return _result(
            passed=True, words=f"the champion was trained on {reference.images} images, too few to compare"
        )
    return _compared(settings, batch, reference, champion.model_id)


def _compared(settings: Settings, batch: str, reference: "Summary", model_id: str) -> dg.AssetCheckResult:
    from captcha_assets.quality import drift, drift_picture, report, verdict

    delivery = drift.summarize([settings.image_table(batch)])
    found = drift.compare(reference, delivery)
    figures = {"distributions": drift_picture.picture(reference, delivery, found)}
    judged, folder = found.verdict(f"drift/{batch}"), settings.verdict("drift", batch)
    verdict.save(judged, report.page(judged, figures), folder)
    together = verdict.as_one(DRIFT.name, judged.findings)
    drifted = ", ".join(feature.name.replace("_", " ") for feature in found.drifted)
    sizes = {feature.name.replace("_", " "): round(feature.statistic, 4) for feature in found.features}
    most = (f"{feature.name.replace('_', ' ')} {feature.threshold:.3g}" for feature in found.features)
    return _result(
        passed=found.passed, words=f"drifted: {drifted}" if drifted else "as the training images"
    ).with_metadata(
        {
            "expected": f"differences of at most: {', '.join(most)}",
            "observed": together.observed,
            **sizes,  # numbers, so that the UI plots their history
            "compared with": model_id,
            "distributions": picture(figures["distributions"], "distributions"),
            "report": link(settings, folder / "report.html"),
        }
    )


def _result(*, passed: bool, words: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="image_table",
        check_name=DRIFT.name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
    )
