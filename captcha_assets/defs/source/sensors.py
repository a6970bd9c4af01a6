"""Deliveries that arrive by themselves: the inbox folder."""

import dagster as dg

from captcha_assets.defs.partitions import batches
from captcha_assets.settings import Settings
from captcha_assets.sources import inbox

ingest_delivery = dg.define_asset_job(
    "ingest_delivery",
    selection=["raw_batch", "image_table", "rejected_images", "image_index", "splits", "data_snapshot"],
    description="One delivery, from its archive to the place of each of its images.",
)


@dg.sensor(
    job=ingest_delivery,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Takes zips and folders from the inbox: registers the delivery and starts `ingest_delivery`.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Register what has settled in the inbox; what is still being copied waits for the next tick."""
    found = inbox.scan(settings)
    for path, reason in found.skipped:
        context.log.info(f"{path.name}: {reason}")
    if not found.arrivals:
        waiting = "; ".join(f"{path.name}: {reason}" for path, reason in found.skipped)
        return dg.SkipReason(waiting or f"nothing in {settings.inbox}")
    for arrival in found.arrivals:
        inbox.take(settings, arrival)
    return dg.SensorResult(
        run_requests=[
            # The hash is in the key: the same archive starts one run, a new one of the same name its own.
            dg.RunRequest(run_key=f"{arrival.batch}-{arrival.sha256}", partition_key=arrival.batch)
            for arrival in found.arrivals
        ],
        dynamic_partitions_requests=[
            batches.build_add_request([arrival.batch for arrival in found.arrivals])
        ],
    )
