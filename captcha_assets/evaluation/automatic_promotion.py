"""The promotion of a candidate: the first model, then only one that meets the criteria."""

from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import xxhash

from captcha_assets.evaluation import export_criteria
from captcha_assets.evaluation.above_chance import above_chance, criteria_that_only_warn
from captcha_assets.evaluation.candidate_comparison import Comparison, PromotionLimits, compare
from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.evaluation.evaluate import evaluate_stored
from captcha_assets.evaluation.recorded_criteria import FIRST_MODEL, criteria_of
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.images.table_parts import version_of
from captcha_assets.models import promotion_records, registry
from captcha_assets.models.newer_data import newer_data
from captcha_assets.models.overview import accuracy_figures, read_metrics
from captcha_assets.models.promotion_records import Decision
from captcha_assets.models.registry import NEWER_DATA, Champion
from captcha_assets.models.registry_records import now
from captcha_assets.models.servable import require_export
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.text_formats import shown_time

#: The other grounds of a promotion, beside `NEWER_DATA`.
FIRST, SUPERIORITY = "first model", "superiority"


class PromotionError(RuntimeError):
    """There is nothing that could be promoted; the message says what to materialize first."""


@dataclass(frozen=True)
class Promotion:
    """The outcome of a promotion.

    Attributes:
        champion: the model that serves now; None where none was promoted yet.
        candidate: the id of the candidate.
        promoted: whether it was promoted now.
        reason: why, or why not, in one line.
        criteria: what was decided on, now or when the candidate was compared.
        without: why the criteria that are absent were not evaluated.
    """

    champion: Champion | None
    candidate: str
    promoted: bool
    reason: str
    criteria: tuple[Criterion, ...] = ()
    without: str = FIRST_MODEL


def consider_candidate(settings: Settings, data: LocalTables) -> Promotion:
    """Make the candidate champion if there is none, or if it meets the criteria on today's test split.

    Without a champion, those that compare it with one are left out; the export's have to be met.

    The candidate has been measured by `evaluate` and exported already; the champion is measured again here,
    and the candidate where the splits have changed since.
    A candidate is compared once against a champion on a test split: asked again, the recorded decision is
    returned. What a person refused, replaced or rolled back from is not promoted.

    Raises:
        PromotionError: there is no candidate, or it is not evaluated.
        NotExportedError: it is not exported.
        RegistryError: a record of the registry is damaged.
        ModelFolderError: one of the models is damaged.
    """
    candidate, champion = registry.candidate(settings.paths.models), registry.champion(settings.paths.models)
    if candidate is None:
        raise PromotionError("there is no candidate: materialize resnet18 first")
    new = candidate.model_id
    if champion and champion.model_id == new:
        return _as_recorded(settings.paths, champion, new, "the candidate is the champion already")
    if barred := registry.barred(settings.paths.models, new):
        return _as_recorded(settings.paths, champion, new, barred)
    test_split = _version_of_test_split(data.splits)
    against = champion.model_id if champion else None
    decision = promotion_records.find(settings.paths.models, new, against, test_split)
    if decision is None:
        decision = promotion_records.record(
            settings.paths.models, _decision(settings, data, new, champion, test_split)
        )
        return _carried_out(settings.paths, decision, champion, decision.reason)
    decided = f"decided {shown_time(decision.since)}: a candidate is compared once on a test split"
    again = f"{decision.reason} ({decided})"
    return _carried_out(settings.paths, decision, champion, again)


def _as_recorded(paths: Paths, champion: Champion | None, candidate: str, reason: str) -> Promotion:
    """Return that nothing is decided now, with the criteria of the last decision on the candidate."""
    decision = promotion_records.last(paths.models, candidate)
    criteria = criteria_of(decision) if decision else ()
    without = FIRST_MODEL if decision else f"not compared: {reason}"
    return Promotion(champion, candidate, promoted=False, reason=reason, criteria=criteria, without=without)


def _carried_out(paths: Paths, decision: Decision, champion: Champion | None, reason: str) -> Promotion:
    """Promote the candidate where the decision says so, also where another process recorded it and died."""
    new, criteria = decision.candidate, criteria_of(decision)
    if not decision.promoted:
        return Promotion(champion, new, promoted=False, reason=reason, criteria=criteria)
    require_export(paths, new)
    promoted = registry.promote(
        paths.models,
        new,
        decision.reason,
        {**accuracy_figures(paths, new), "ground": decision.ground},
        instead_of=champion.model_id if champion else None,
    )
    return Promotion(promoted, new, promoted=True, reason=reason, criteria=criteria)


def _version_of_test_split(splits: Path) -> str:
    """Return a hash of the test images and their labels: what a candidate is compared on."""
    rows = pl.read_parquet(splits, columns=["image_id", "label", "split"])
    test = rows.filter(pl.col("split") == "test").select("image_id", "label").sort("image_id")
    return xxhash.xxh3_128_hexdigest(test.write_csv().encode())


def _decision(
    settings: Settings, data: LocalTables, new: str, champion: Champion | None, test_split: str
) -> Decision:
    """Return the decision on a candidate."""
    against = champion.model_id if champion else None
    parity = export_criteria.parity(settings.paths, new)
    latency = export_criteria.latency(settings.paths, new, against, settings.promotion_latency)
    predictions = _predictions(settings.paths, data, new)
    chance = above_chance(predictions, settings.promotion_level)
    comparison, of_champion = None, None
    if against:
        before = evaluate_stored(settings.paths, data, against).predictions
        comparison = _compared(settings, data, champion=(against, before), new=(new, predictions))
        of_champion = above_chance(before, settings.promotion_level)
    criteria = (*(comparison.criteria if comparison else ()), chance, parity, latency)
    only_warn = criteria_that_only_warn(chance, of_champion)
    failed = [one.words for one in criteria if not one.passed and one.name not in only_warn]
    ground = _ground(comparison)
    return Decision(
        candidate=new,
        champion=against,
        test_split=test_split,
        splits_version=version_of(data.splits),
        since=now(),
        promoted=not failed,
        ground=None if failed else ground,
        reason="; ".join(failed) or _reason(comparison, ground, chance),
        criteria=[asdict(criterion) for criterion in criteria],
    )


def _ground(comparison: Comparison | None) -> str:
    if comparison is None:
        return FIRST
    return SUPERIORITY if comparison.superior else NEWER_DATA


def _reason(comparison: Comparison | None, ground: str, chance: Criterion) -> str:
    if comparison is None:
        return "the first model" if chance.passed else f"the first model, but {chance.words}"
    accuracies = f"accuracy {comparison.candidate_accuracy:.4f} against {comparison.champion_accuracy:.4f}"
    return f"{'a better test accuracy' if ground == SUPERIORITY else 'newer data, no worse'}: {accuracies}"


def promotion_limits(settings: Settings) -> PromotionLimits:
    """Return the limits that the settings name."""
    return PromotionLimits(
        margin=settings.promotion_margin,
        level=settings.promotion_level,
        calibration_error=settings.promotion_calibration_error,
    )


def _compared(
    settings: Settings,
    data: LocalTables,
    *,
    champion: tuple[str, pl.DataFrame],
    new: tuple[str, pl.DataFrame],
) -> Comparison:
    """Compare the candidate with the champion: the id of each, and what it reads on today's test split."""
    reference = registry.reference(registry.history(settings.paths.models))
    return compare(
        champion[1],
        new[1],
        promotion_limits(settings),
        newer_data=newer_data(settings.paths, new[0], champion[0], version_of(data.splits)),
        reference_predictions=None
        if reference == champion[0]
        else evaluate_stored(settings.paths, data, reference).predictions,
    )


def _predictions(paths: Paths, data: LocalTables, model_id: str) -> pl.DataFrame:
    """Return what the candidate read on today's test split: measured again if the splits have changed."""
    metrics = read_metrics(paths, model_id)
    if metrics is not None and metrics.get("splits_version") != version_of(data.splits):
        return evaluate_stored(paths, data, model_id).predictions
    path = paths.evaluation(model_id) / "predictions.parquet"
    if not path.exists():
        raise PromotionError(f"the candidate {model_id} is not evaluated: materialize evaluation first")
    try:
        return pl.read_parquet(str(path))
    except pl.exceptions.ComputeError as error:
        raise PromotionError(f"{path} is damaged ({error}): materialize evaluation again") from error
