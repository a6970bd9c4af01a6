"""Promoting a candidate: the first model, then only one that is better and nowhere worse."""

import json
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from captcha_assets.evaluation.clauses import Clause
from captcha_assets.evaluation.compare import Comparison, PromotionLimits, compare
from captcha_assets.evaluation.evaluate import evaluate
from captcha_assets.evaluation.words import percent
from captcha_assets.images.local import LocalTables
from captcha_assets.images.table import content_hash
from captcha_assets.models import registry
from captcha_assets.models.onnx import Parity
from captcha_assets.models.overview import read_metrics
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.models.registry import Champion
from captcha_assets.settings import Settings
from captcha_assets.storage import fetched


class PromotionError(RuntimeError):
    """There is nothing that could be promoted; the message says what to make first."""


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate.

    Attributes:
        champion: who serves now; None where no model ever was fit to.
        candidate: the id of the candidate.
        promoted: whether it was promoted now.
        reason: why, or why not, in one line.
        clauses: what was looked at; those that need a champion are absent where there is none.
    """

    champion: Champion | None
    candidate: str
    promoted: bool
    reason: str
    clauses: tuple[Clause, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the candidate was looked at and not promoted."""
        return not self.promoted and not (self.champion and self.champion.model_id == self.candidate)


def consider_candidate(settings: Settings, data: LocalTables) -> Promotion:
    """Make the candidate champion if there is none, or if it is better on the same, today's, test split.

    The candidate has been measured by `evaluate` and exported already; the champion is measured anew here.
    What a person refused or rolled back from is not promoted.

    Raises:
        PromotionError: there is no candidate.
        ModelFolderError: one of the two is damaged.
    """
    candidate, champion = registry.candidate(settings.models), registry.champion(settings.models)
    if candidate is None:
        raise PromotionError("there is no candidate: make resnet18 first")
    new = candidate.model_id
    if champion and champion.model_id == new:
        return Promotion(champion, new, promoted=False, reason="the candidate is the champion already")
    if barred := registry.barred(settings.models, new):
        return Promotion(champion, new, promoted=False, reason=barred)
    comparison = _compared(settings, data, champion.model_id, new) if champion else None
    clauses = (
        *(comparison.clauses if comparison else ()),
        _parity(settings, new),
        _latency(settings, champion, new),
    )
    against = [clause.words for clause in clauses if not clause.passed]
    if against or (comparison and not comparison.better):
        reason = "; ".join(against) if against else f"no better test accuracy: {_accuracies(comparison)}"
        return Promotion(champion, new, promoted=False, reason=reason, clauses=clauses)
    reason = f"a better test accuracy: {_accuracies(comparison)}" if comparison else "the first model"
    promoted = registry.promote(
        settings.models,
        new,
        reason,
        _figures(settings, new),
        instead_of=champion.model_id if champion else None,
    )
    return Promotion(promoted, new, promoted=True, reason=reason, clauses=clauses)


def _accuracies(comparison: Comparison | None) -> str:
    assert comparison is not None
    return f"{comparison.candidate_accuracy:.4f} against {comparison.champion_accuracy:.4f}"


def _compared(settings: Settings, data: LocalTables, champion: str, candidate: str) -> Comparison:
    with fetched(registry.model_folder(settings.models, champion)) as folder:
        measured = evaluate(
            folder,
            data.tables,
            data.splits,
            settings.evaluation(champion),
            splits_version=content_hash(settings.splits),
        )
    limits = PromotionLimits(
        settings.promotion_accuracy_level,
        settings.promotion_recall_fall,
        settings.promotion_calibration_error,
    )
    return compare(measured.predictions, _predictions(settings, candidate), limits)


def _predictions(settings: Settings, model_id: str) -> pl.DataFrame:
    return pl.read_parquet(str(settings.evaluation(model_id) / "predictions.parquet"))


def _parity(settings: Settings, candidate: str) -> Clause:
    path = settings.onnx_model(candidate) / "parity.json"
    if not path.exists():
        return Clause("onnx_parity", passed=False, figures={}, words="the candidate is not exported")
    parity = Parity(**json.loads(path.read_text()))
    figures = {"agreement": parity.agreement, "largest difference": parity.max_abs_difference}
    words = f"the export agrees on {percent(parity.agreement, 2)} of {parity.images:,} images"
    return Clause("onnx_parity", parity.passed, figures, words)


def _latency(settings: Settings, champion: Champion | None, candidate: str) -> Clause:
    limit = settings.promotion_latency
    times = _median_times(settings, [candidate, *([champion.model_id] if champion else [])])
    if candidate not in times:
        return Clause(
            "latency", passed=False, figures={"limit": limit}, words="the candidate is not exported"
        )
    new, old = times[candidate], times.get(champion.model_id) if champion else None
    passed = new <= max(limit, old or 0)
    words = f"{new:.1f} ms for one image, {limit:g} ms are allowed"
    figures = {"candidate": new, "limit": limit} | ({"champion": old} if old else {})
    return Clause("latency", passed, figures, f"{words} (champion {old:.1f} ms)" if old else words)


def _median_times(settings: Settings, models: list[str], rounds: int = 50) -> dict[str, float]:
    """Median time of the exported models for one image, in ms, measured in turns on one thread.

    The processor's time: a machine that is busy otherwise is no reason to refuse a model.
    """
    with ExitStack() as stack:
        predictors = {
            model: OnnxPredictor(stack.enter_context(fetched(settings.onnx_model(model))), threads=1)
            for model in models
            if settings.onnx_model(model).exists()
        }
        times: dict[str, list[float]] = {model: [] for model in predictors}
        for _ in range(rounds):
            for model, predictor in predictors.items():
                image = np.zeros((1, *predictor.config.input_size), np.uint8)
                began = time.process_time()
                predictor.predict(image)
                times[model].append(1000 * (time.process_time() - began))
    return {model: statistics.median(measured) for model, measured in times.items()}


def _figures(settings: Settings, model_id: str) -> dict[str, Any]:
    figures = read_metrics(settings, model_id) or {}
    return {
        name: figures[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "n") if name in figures
    }
