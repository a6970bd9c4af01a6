"""Promoting a candidate: the first model, then only one that is better and nowhere worse."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from captcha_assets.evaluation.compare import Comparison, compare
from captcha_assets.evaluation.evaluate import evaluate
from captcha_assets.images.local import LocalTables
from captcha_assets.images.table import content_hash
from captcha_assets.models import registry
from captcha_assets.models.overview import read_metrics
from captcha_assets.models.registry import Champion, Decision
from captcha_assets.settings import Settings
from captcha_assets.storage import fetched


class PromotionError(RuntimeError):
    """There is nothing that could be promoted; the message says what to make first."""


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate.

    Attributes:
        champion: who serves now.
        promoted: whether that is the candidate, as of now.
        reason: why, in one line.
        comparison: candidate against champion on today's test split; None where nothing was compared.
    """

    champion: Champion
    promoted: bool
    reason: str
    comparison: Comparison | None = None


def consider_candidate(settings: Settings, data: LocalTables) -> Promotion:
    """Make the candidate champion if there is none, or if it is better on the same, today's, test split.

    The candidate has been measured by `evaluate` already; the champion is measured anew here.

    Raises:
        PromotionError: there is no candidate.
        ModelFolderError: one of the two is damaged.
    """
    candidate, champion = registry.candidate(settings.models), registry.champion(settings.models)
    if candidate is None:
        raise PromotionError("there is no candidate: make resnet18 first")
    if champion and champion.model_id == candidate.model_id:
        return Promotion(champion, promoted=False, reason="the candidate is the champion already")
    comparison = _compared(settings, data, champion.model_id, candidate.model_id) if champion else None
    decision = _decide(comparison)
    if champion and not decision.promote:
        return Promotion(champion, promoted=False, reason=decision.reason, comparison=comparison)
    promoted = registry.promote(
        settings.models,
        candidate.model_id,
        decision.reason,
        _figures(settings, candidate.model_id),
        instead_of=champion.model_id if champion else None,
    )
    return Promotion(promoted, promoted=True, reason=decision.reason, comparison=comparison)


def _compared(settings: Settings, data: LocalTables, champion: str, candidate: str) -> Comparison:
    with fetched(registry.model_folder(settings.models, champion)) as folder:
        measured = evaluate(
            folder,
            data.tables,
            data.splits,
            settings.evaluation(champion),
            splits_version=content_hash(settings.splits),
        )
    return compare(measured.predictions, _predictions(settings, candidate))


def _predictions(settings: Settings, model_id: str) -> pl.DataFrame:
    return pl.read_parquet(str(settings.evaluation(model_id) / "predictions.parquet"))


def _decide(comparison: Comparison | None) -> Decision:
    if comparison is None:
        return Decision(promote=True, reason="the first model")
    if not comparison.passed:
        return Decision(promote=False, reason=comparison.words)
    figures = f"{comparison.candidate_accuracy:.4f} against {comparison.champion_accuracy:.4f}"
    if comparison.better:
        return Decision(promote=True, reason=f"a better test accuracy: {figures}")
    return Decision(promote=False, reason=f"no better test accuracy: {figures}")


def _figures(settings: Settings, model_id: str) -> dict[str, Any]:
    figures = read_metrics(settings, model_id) or {}
    return {
        name: figures[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "n") if name in figures
    }
