"""What Dagster recorded of the materializations of an output."""

import dagster as dg

from captcha_assets.defs.dagster_internals import DATA_VERSION_TAG, NO_VALUE
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.stored_outputs import Output


def records_of(output: Output, names: Names = PLAIN) -> dg.AssetRecordsFilter:
    """Return what selects the materializations of an output."""
    partitions = [output.partition] if output.partition else None
    return dg.AssetRecordsFilter(names.key(output.asset), asset_partitions=partitions)


def last_materialized(
    instance: dg.DagsterInstance, output: Output, names: Names = PLAIN
) -> dg.AssetMaterialization | None:
    """Return the last materialization that had a value, whatever was lost since; None where there is none."""
    for record in instance.fetch_materializations(records_of(output, names), limit=100).records:
        event = record.asset_materialization
        if event and (event.tags or {}).get(DATA_VERSION_TAG, NO_VALUE) != NO_VALUE:
            return event
    return None
