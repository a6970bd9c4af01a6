"""Which batches an unpartitioned asset was materialized from, and in which version.

Dagster compares the inputs of an asset, but it does not notice that a batch was removed, and it compares no
partitions where there are more than a hundred. The versions recorded here cover both cases.
"""

from typing import Any

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG, NO_VALUE
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.partitions import BATCH


def recorded_versions(instance: dg.DagsterInstance, asset: str, names: Names = PLAIN) -> dict[str, str]:
    """The data version that Dagster knows last of each partition, `NO_VALUE` for one that is lost."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        names.key(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: found.get(DATA_VERSION_TAG, NO_VALUE) for partition, found in tags.items()}


def versions_now(instance: dg.DagsterInstance, asset: str, names: Names = PLAIN) -> dict[str, str]:
    """The data version of an asset for each batch that is there and for which it is materialized."""
    recorded = recorded_versions(instance, asset, names)
    batches = instance.get_dynamic_partitions(names.name(BATCH))
    there = (name for name in sorted(batches) if name in recorded)
    return {name: recorded[name] for name in there if recorded[name] != NO_VALUE}


def version_of(instance: dg.DagsterInstance, asset: str, partition: str, names: Names = PLAIN) -> str | None:
    """The data version of a partition of an asset; None where it is not materialized.

    One partition is asked for, not all of them: each step of an update asks.
    """
    of_partition = dg.AssetRecordsFilter(names.key(asset), asset_partitions=[partition])
    records = instance.fetch_materializations(of_partition, limit=1).records
    event = records[0].asset_materialization if records else None
    version = (event.tags or {}).get(DATA_VERSION_TAG, NO_VALUE) if event else NO_VALUE
    return None if version == NO_VALUE else version


def record(versions: dict[str, str], asset: str) -> dict[str, Any]:
    """Metadata that records the input versions of an asset: to be taken before an input is read."""
    return {metadata_key(asset): dg.MetadataValue.json(versions)}


def metadata_key(asset: str) -> str:
    """Return the name under which the versions of an input are recorded."""
    return f"{asset} by batch"
