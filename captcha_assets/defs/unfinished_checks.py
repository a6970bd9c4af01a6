"""Checks without a result: their run was killed, or failed, after it had materialized the asset."""

import dagster as dg

from captcha_assets.defs.dagster_internals import BaseAssetGraph, latest_planned

#: So many executions without a result are looked at, of each check.
_LATEST = 25


def unfinished_checks(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey
) -> dict[str | None, list[str]]:
    """Return the checks of an asset that have no result for its latest materialization, whose run has ended.

    Args:
        instance: the Dagster instance.
        graph: all assets.
        key: an asset.

    Returns:
        Their names by partition; None is that of an asset without partitions.
    """
    found: dict[str | None, list[str]] = {}
    for check in sorted(graph.asset_check_keys, key=str):
        if check.asset_key != key:
            continue
        for run_id in {record.run_id for record in latest_planned(instance, check, _LATEST)}:
            run = instance.get_run_by_id(run_id)
            if run is None or not run.is_finished:
                continue
            partition = run.tags.get("dagster/partition") if graph.get(key).is_partitioned else None
            if _latest_run(instance, key, partition) == run_id:
                found.setdefault(partition, []).append(check.name)
    return found


def _latest_run(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> str | None:
    """Return the id of the run that materialized an asset last."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0].event_log_entry.run_id if records else None
