"""Reports to Dagster a champion that no run changed: by a command, or by the automatic rollback."""

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG
from captcha_assets.defs.lost_outputs import last_materialized
from captcha_assets.defs.model.promotion import champion_metadata
from captcha_assets.models.registry import Champion
from captcha_assets.stored_outputs import Output


def report_champion(instance: dg.DagsterInstance, champion: Champion) -> None:
    """Report a materialization of `champion` after a change without a run; it makes nothing stale."""
    before = last_materialized(instance, Output("champion"))
    if before is None:
        return  # never materialized: its first materialization reads the champion
    if (before.tags or {}).get(DATA_VERSION_TAG) == champion.model_id:
        return  # reported already
    tags = {**(before.tags or {}), DATA_VERSION_TAG: champion.model_id}
    metadata = {
        **champion_metadata(champion),
        "why": f"{champion.reason} ({champion.action} by {champion.by})",
    }
    instance.report_runless_asset_event(dg.AssetMaterialization("champion", metadata=metadata, tags=tags))
