"""Tells Dagster of a champion that no run made: a person or the automatic rollback changed who serves."""

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG
from captcha_assets.defs.lost_outputs import last_materialized
from captcha_assets.defs.model.promotion import champion_metadata
from captcha_assets.models.registry import Champion
from captcha_assets.stored_outputs import Output


def report_champion(instance: dg.DagsterInstance, champion: Champion) -> None:
    """Tell Dagster of a champion that no run made, unless it knows; nothing becomes out of date by it."""
    before = last_materialized(instance, Output("champion"))
    if before is None:
        return  # never made: whoever makes it will see the champion
    if (before.tags or {}).get(DATA_VERSION_TAG) == champion.model_id:
        return
    tags = {**(before.tags or {}), DATA_VERSION_TAG: champion.model_id}
    metadata = {
        **champion_metadata(champion),
        "why": f"{champion.reason} ({champion.action} by {champion.by})",
    }
    instance.report_runless_asset_event(dg.AssetMaterialization("champion", metadata=metadata, tags=tags))
