"""Which batches an asset over all of them was made from, and in which version.

Dagster compares the inputs of an asset by itself, but it does not see that a batch was removed, and
from a hundred batches on it compares none of them. What is recorded here closes both gaps.
"""

from typing import Any, cast

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG, NO_VALUE
from captcha_assets.defs.partitions import BATCH


def versions_now(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """The data version of an asset for each batch that is there and for which it is materialized."""
    found = _versions(instance, asset)
    return {name: found[name] for name in sorted(instance.get_dynamic_partitions(BATCH)) if name in found}


def version_of(instance: dg.DagsterInstance, asset: str, partition: str) -> str | None:
    """The data version of a partition of an asset; None where it is not materialized."""
    return _versions(instance, asset).get(partition)


def _versions(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    found = {name: known.get(DATA_VERSION_TAG, NO_VALUE) for name, known in tags.items()}
    return {name: version for name, version in found.items() if version != NO_VALUE}


def record(versions: dict[str, str], asset: str) -> dict[str, Any]:
    """Metadata that records what an asset was made from: ask before anything is read."""
    return {_name(asset): dg.MetadataValue.json(versions)}


def changes(instance: dg.DagsterInstance, key: dg.AssetKey, parent: str) -> list[str]:
    """What became of the batches since `key` was made from its input `parent`, in words."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return []
    recorded = event.asset_materialization.metadata.get(_name(parent))
    if recorded is None:
        return []
    before, now = cast("dict[str, str]", recorded.value), versions_now(instance, parent)
    changed = [f"{parent} [{name}] changed" for name in now if now[name] != before.get(name)]
    there = set(instance.get_dynamic_partitions(BATCH))
    gone = [
        f"{parent} [{name}] is missing" if name in there else f"batch {name} was removed"
        for name in sorted(before.keys() - now.keys())
    ]
    return changed + gone


def _name(asset: str) -> str:
    return f"{asset} by batch"
