"""The evaluations that the UI shows under *Automation*: those that it can no longer read are deleted.

Dagster keeps which partitions an evaluation was about as ranges of keys. Where a key that begins or ends a
range is gone, it fails to read the evaluation, and the tab shows an error instead of all evaluations.
"""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg

from captcha_assets.defs.partitions import BATCH

#: The assets whose evaluations name batches: those partitioned by batch, and those derived from them.
ASSETS = ("raw_batch", "image_table", "rejected_images", "data_snapshot", "image_index", "data_report")

#: How many evaluations of each asset are read; the daemon writes one only when something has changed.
_LATEST = 1000


def delete_unreadable(instance: dg.DagsterInstance) -> bool:
    """Delete all evaluations up to the latest that names a removed batch.

    Returns:
        Whether there was one.
    """
    storage = instance.schedule_storage
    if storage is None or not storage.supports_auto_materialize_asset_evaluations:
        return False
    known = set(instance.get_dynamic_partitions(BATCH))
    unreadable = [
        record.timestamp
        for name in ASSETS
        for record in storage.get_auto_materialize_asset_evaluations(dg.AssetKey(name), limit=_LATEST)
        if set(_ends_of_ranges(json.loads(record.serialized_evaluation_body))) - known
    ]
    if unreadable:
        storage.purge_asset_evaluations(max(unreadable) + 1)
    return bool(unreadable)


def _ends_of_ranges(value: Any) -> Iterator[str]:
    """Yield the partition keys at the ends of all ranges in an evaluation as it is stored."""
    if isinstance(value, list):
        for one in value:
            yield from _ends_of_ranges(one)
    elif isinstance(value, dict):
        if value.get("__class__") == "PartitionKeyRange":
            yield from (value["start"], value["end"])
        for one in value.values():
            yield from _ends_of_ranges(one)


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Deletes evaluations that name removed batches: the Automation tab cannot show them. Starts "
    "no run.",
)
def automation_history(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Read the evaluations when a batch was removed; the cursor holds the batches of the last tick."""
    known = context.instance.get_dynamic_partitions(BATCH)
    before = json.loads(context.cursor) if context.cursor else None
    context.update_cursor(json.dumps(known))
    if before is not None and set(before) <= set(known):
        return dg.SkipReason("no batch was removed")
    deleted = delete_unreadable(context.instance)
    return dg.SkipReason("evaluations of removed batches were deleted" if deleted else "all are readable")
