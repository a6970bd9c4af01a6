"""Does a delivery look like what the champion was trained on? A warning, never a stop."""

import dagster as dg

from captcha_assets.defs.presentation import link, picture
from captcha_assets.models import registry
from captcha_assets.settings import Settings

DRIFT = dg.AssetCheckSpec(
    "drift",
    asset="image_table",
    description="The delivery looks like what the champion was trained on.",
)


def drift_result(settings: Settings, batch: str) -> dg.AssetCheckResult:
    """Compare a delivery's table with the training images of the champion, if there is one."""
    champion = registry.champion(settings.models)
    if champion is None or not settings.training_summary(champion.model_id).exists():
        return _result(passed=True, words="no champion yet to compare with")
    from captcha_assets.quality import drift, drift_picture, report, verdict

    reference = drift.load(settings.training_summary(champion.model_id))
    if reference.images < drift.MIN_REFERENCE:
        return _result(
            passed=True, words=f"the champion was trained on {reference.images} images, too few to compare"
        )
    delivery = drift.summarize([settings.image_table(batch)])
    found = drift.compare(reference, delivery)
    figures = {"distributions": drift_picture.picture(reference, delivery, found)}
    judged, folder = found.verdict(f"drift/{batch}"), settings.verdict("drift", batch)
    verdict.save(judged, report.page(judged, figures), folder)
    drifted = ", ".join(feature.name.replace("_", " ") for feature in found.drifted)
    result = _result(
        passed=found.passed, words=f"drifted: {drifted}" if drifted else "as the training images"
    )
    metadata = {feature.name.replace("_", " "): round(feature.statistic, 4) for feature in found.features}
    return result.with_metadata(
        {
            **metadata,
            "compared with": champion.model_id,
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
