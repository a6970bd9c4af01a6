"""The champion as Dagster shows it: every criterion of a promotion a check, every change an event."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from captcha_assets.defs.lost_outputs import last_materialized
from captcha_assets.evaluation.criteria import CRITERIA
from captcha_assets.models.registry import Champion
from captcha_assets.stored_outputs import Output

if TYPE_CHECKING:
    from captcha_assets.evaluation.promotion import Promotion

_CHAMPION = dg.AssetKey("champion")


def criteria_specs() -> list[dg.AssetCheckSpec]:
    """A check for every criterion; a refused candidate is a warning, since the champion serves on."""
    return [dg.AssetCheckSpec(name, asset=_CHAMPION, description=words) for name, words in CRITERIA.items()]


def criteria_results(outcome: "Promotion") -> list[dg.AssetCheckResult]:
    """What every criterion found; one that was not looked at had nothing to say against the candidate."""
    found = {criterion.name: criterion for criterion in outcome.criteria}
    return [
        dg.AssetCheckResult(
            asset_key=_CHAMPION,
            check_name=name,
            passed=name not in found or found[name].passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=found[name].words if name in found else outcome.without,
            metadata=dict(found[name].figures) if name in found else {},
        )
        for name in CRITERIA
    ]


def champion_version(champion: Champion | None) -> dg.DataVersion:
    """The data version of `champion`: the model that serves."""
    return dg.DataVersion(champion.model_id if champion else "none")


def champion_metadata(champion: Champion | None) -> dict[str, Any]:
    """Which model serves, since when, instead of which."""
    return {
        "champion": champion.model_id if champion else "none",
        "since": champion.since if champion else "never",
        "instead of": (champion and champion.instead_of) or "none",
    }


def report_champion(instance: dg.DagsterInstance, champion: Champion) -> None:
    """Tell Dagster of a champion that a command made; nothing becomes out of date by it."""
    before = last_materialized(instance, Output("champion"))
    if before is None:
        return  # never made: whoever makes it will see the champion
    tags = {**(before.tags or {}), "dagster/data_version": champion.model_id}
    metadata = {
        **champion_metadata(champion),
        "why": f"{champion.reason} ({champion.action} by {champion.by})",
    }
    instance.report_runless_asset_event(dg.AssetMaterialization(_CHAMPION, metadata=metadata, tags=tags))
