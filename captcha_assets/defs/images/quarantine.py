"""A quarantined batch in the Dagster UI: its partition is red, though its table is on disk."""

import dagster as dg


def show_as_failed(context: dg.AssetExecutionContext, asset: dg.AssetKey) -> None:
    """Make the UI show this partition of `asset` as failed, once the run has failed by its blocking check.

    Dagster calls a partition failed when a failed run planned it and did not materialize it afterwards. Here
    the table is materialized before its checks block, so that the run plans it once more: the partition
    is red, its data version is known, and nothing materializes the same content again.
    """
    planned = context.instance.all_logs(
        context.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    )
    for entry in planned:
        event = entry.dagster_event
        if event and event.asset_key == asset and event.partition == context.partition_key:
            context.instance.report_dagster_event(event, context.run_id)
            return
