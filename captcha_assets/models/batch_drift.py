"""Compares a batch with the images that the champion was trained on."""

from dataclasses import dataclass

from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.models import registry
from captcha_assets.paths import Paths
from captcha_assets.quality import drift, drift_plot, report, validation
from captcha_assets.quality.drift import DriftFeature, Summary


@dataclass(frozen=True)
class Comparison:
    """How a batch differs from the training images of a model.

    Attributes:
        model_id: the model.
        features: all that was compared.
        observed: the result in words.
        plot: the distributions, a PNG.
        report: the page of the validation result.
    """

    model_id: str
    features: tuple[DriftFeature, ...]
    observed: str
    plot: bytes
    report: AnyPath

    @property
    def sizes(self) -> dict[str, float]:
        """The size of the difference of each feature."""
        return {f"drift of {feature.title}": round(feature.statistic, 4) for feature in self.features}


@dataclass(frozen=True)
class BatchDrift:
    """Whether a batch drifted from the images that the champion was trained on, in words too.

    Attributes:
        passed: whether it does, or there is nothing to compare with.
        description: what drifted, or why nothing was compared.
        comparison: None where nothing was compared.
    """

    passed: bool
    description: str
    comparison: Comparison | None = None


def compare_with_champion(paths: Paths, batch: str, spec: DatasetSpec) -> BatchDrift:
    """Compare a batch's table with the training images of the champion, if there is one."""
    champion = registry.champion(paths.models)
    if champion is None:
        return BatchDrift(passed=True, description="not compared: there was no champion when it was checked")
    trained_on = paths.training_summary(champion.model_id)
    if not trained_on.exists():
        unknown = f"it is not recorded what the champion {champion.model_id} was trained on"
        return BatchDrift(passed=True, description=unknown)
    try:
        reference = drift.load(trained_on, spec)
    except drift.DriftError as error:
        return BatchDrift(passed=False, description=f"no comparison: {error}")
    if reference.images < drift.MIN_REFERENCE:
        few = f"the champion was trained on {reference.images} images, too few to compare"
        return BatchDrift(passed=True, description=few)
    images = drift.summarize([paths.image_table(batch)], spec)
    if images.images == 0:
        return BatchDrift(passed=True, description="no usable images to compare")
    folder = paths.validation_results("drift", batch)
    return _compared(folder, batch, spec, (reference, images), champion.model_id)


def _compared(
    folder: AnyPath, batch: str, spec: DatasetSpec, summaries: tuple[Summary, Summary], model_id: str
) -> BatchDrift:
    """Compare the training images of a model with a batch, and store the result with its report."""
    reference, images = summaries
    found = drift.compare(reference, images)
    plot = drift_plot.plot(reference, images, found)
    validated = validation.validate(
        "drift", f"drift/{batch}", {"drift": found.table()}, spec, rows=images.images
    )
    page = report.publish(validated, folder, {"distributions": plot})
    drifted = ", ".join(feature.title for feature in found.drifted)
    return BatchDrift(
        found.passed,
        f"drifted: {drifted}" if drifted else "no drift from the training images",
        Comparison(model_id, found.features, validated.results[0].observed, plot, page),
    )
