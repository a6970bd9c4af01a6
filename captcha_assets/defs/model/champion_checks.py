"""The champion in Dagster: an asset check for each criterion of a promotion, an event for each change."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from captcha_assets.evaluation.criterion_descriptions import CRITERIA, Criterion
from captcha_assets.models.registry import Champion
from captcha_assets.stored_outputs import NO_CHAMPION

_CHAMPION = dg.AssetKey("champion")


def criteria_specs() -> list[dg.AssetCheckSpec]:
    """A check for every criterion; a criterion that fails is a warning, since the champion keeps serving."""
    return [dg.AssetCheckSpec(name, asset=_CHAMPION, description=words) for name, words in CRITERIA.items()]


def criteria_results(criteria: Iterable[Criterion], without: str) -> list[dg.AssetCheckResult]:
    """The result of every criterion; one that was not evaluated passes, and `without` says why it was not."""
    found = {criterion.name: criterion for criterion in criteria}
    return [
        dg.AssetCheckResult(
            asset_key=_CHAMPION,
            check_name=name,
            passed=name not in found or found[name].passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=found[name].words if name in found else without,
            metadata=dict(found[name].figures) if name in found else {},
        )
        for name in CRITERIA
    ]


def criteria_evaluations(
    criteria: Iterable[Criterion], without: str, champion: dg.AssetKey
) -> list[dg.AssetCheckEvaluation]:
    """The same as `criteria_results`, for a change of the champion without a run."""
    return [
        dg.AssetCheckEvaluation(
            asset_key=champion,
            check_name=str(result.check_name),
            passed=result.passed,
            severity=result.severity,
            description=result.description,
            metadata=result.metadata,
        )
        for result in criteria_results(criteria, without)
    ]


def champion_version(champion: Champion | None) -> dg.DataVersion:
    """The data version of `champion`: the model that serves."""
    return dg.DataVersion(champion.model_id if champion else NO_CHAMPION)


def champion_metadata(champion: Champion | None) -> dict[str, Any]:
    """Which model serves, since when, instead of which."""
    return {
        "champion": champion.model_id if champion else "none",
        "since": champion.since if champion else "never",
        "instead of": (champion and champion.instead_of) or "none",
    }
