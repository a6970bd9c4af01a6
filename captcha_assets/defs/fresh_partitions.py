"""Which partitions of an asset are fresh: known from a few queries for all of them together.

Dagster's resolver asks five times a partition, each time over a connection of its own: with thousands of
batches that is minutes. Whatever is not plainly fresh is left to the resolver, which says why it is stale.
"""

import dagster as dg

from captcha_assets.defs.dagster_internals import BaseAssetGraph, reads_latest_inputs

#: Dagster gives at most so many events at once.
_EVENTS = 1000


def fresh_partitions(instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey) -> set[str]:
    """Return partitions that Dagster's resolver calls fresh; the others may be fresh too.

    Args:
        instance: the Dagster instance.
        graph: all assets.
        key: an asset. Nothing is known of one that is not partitioned dynamically, as all its inputs are, nor
            of one that has a source as an input.
    """
    node = graph.get(key)
    parents = sorted(node.parent_keys)
    if not isinstance(node.partitions_def, dg.DynamicPartitionsDefinition) or not all(
        graph.get(parent).is_materializable  # the versions of a source are observed
        and graph.get(parent).partitions_def == node.partitions_def
        and isinstance(graph.get_partition_mapping(key, parent), dg.IdentityPartitionMapping)
        for parent in parents
    ):
        return set()
    of_inputs = {parent: _latest(instance, parent) for parent in parents}
    found = set()
    ids = list(_latest(instance, key).values())
    for start in range(0, len(ids), _EVENTS):
        chosen = dg.AssetRecordsFilter(key, storage_ids=ids[start : start + _EVENTS])
        for record in instance.fetch_materializations(chosen, limit=_EVENTS).records:
            event = record.asset_materialization
            if event is None or event.partition is None:
                continue
            latest = {parent: known.get(event.partition) for parent, known in of_inputs.items()}
            if reads_latest_inputs(event.tags or {}, node.code_version, latest):
                found.add(event.partition)
    return found


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, int]:
    """Return the id of the latest materialization of each partition."""
    materialized = dg.DagsterEventType.ASSET_MATERIALIZATION
    return dict(instance.event_log_storage.get_latest_storage_id_by_partition(key, materialized))
