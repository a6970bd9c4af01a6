"""Reports to Dagster a champion that no run changed: by a command, or by the automatic rollback."""

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG
from captcha_assets.defs.materializations import last_materialized
from captcha_assets.defs.model.champion_checks import champion_metadata, criteria_evaluations
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.evaluation.recorded_criteria import criteria_of_change
from captcha_assets.models.registry import Champion
from captcha_assets.paths import Paths
from captcha_assets.stored_outputs import Output


def report_champion(
    paths: Paths, instance: dg.DagsterInstance, champion: Champion, names: Names = PLAIN
) -> None:
    """Report a materialization of `champion`, and its checks, after a change without a run.

    It makes nothing stale. A champion that was reported already is not reported again.
    """
    before = last_materialized(instance, Output("champion"), names)
    if before is None:
        return  # never materialized: its first materialization reads the champion
    if (before.tags or {}).get(DATA_VERSION_TAG) == champion.model_id:
        return  # reported already
    tags = {**(before.tags or {}), DATA_VERSION_TAG: champion.model_id}
    metadata = {
        **champion_metadata(champion),
        "why": f"{champion.reason} ({champion.action} by {champion.by})",
    }
    event = dg.AssetMaterialization(names.key("champion"), metadata=metadata, tags=tags)
    instance.report_runless_asset_event(event)
    report_criteria(paths, instance, champion, names)


def report_criteria(
    paths: Paths, instance: dg.DagsterInstance, champion: Champion, names: Names = PLAIN
) -> None:
    """Report the checks of the champion as they were recorded when it was promoted.

    The UI shows those that were reported after the latest materialization only.
    """
    recorded = criteria_of_change(paths, champion)
    for evaluation in criteria_evaluations(recorded.criteria, recorded.without, names.key("champion")):
        instance.report_runless_asset_event(evaluation)
