"""The sensor of the inbox folder, which ingests the batches that arrive there."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import dagster as dg

from captcha_assets.alerts import Alert, send_new
from captcha_assets.defs import jobs
from captcha_assets.defs.killed_runs import UNFINISHED
from captcha_assets.defs.names import PLAIN, Names
from captcha_assets.defs.observed_sources import changed_sources
from captcha_assets.defs.partitions import batches, in_names
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, inbox
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.inbox import Arrival

#: Tag of a run: the file in the inbox that it ingests, as it was when the run was requested.
ARRIVAL_TAG = "captcha_assets/arrival"

#: Seconds from the end of a failed run to the next attempt; after the last one a person has to act.
RETRY_AFTER = (60, 300, 1800, 7200)

_PARTITION_TAG = "dagster/partition"

#: What the job `ingest_batch` materializes.
INGESTED = ("raw_batch", "image_table", "rejected_images", "image_index", "splits", "data_snapshot")

ingest_batch = dg.define_asset_job(
    "ingest_batch",
    selection=INGESTED,
    description="One batch, from its archive to the split of each of its images.",
)


class _NotNowError(Exception):
    """Why no run starts for a new file in the inbox, and whether a person has to act."""

    def __init__(self, reason: str, *, stuck: bool = False) -> None:
        super().__init__(reason)
        self.stuck = stuck


@dg.sensor(
    job=ingest_batch,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Takes zips and folders from the inbox: registers the batch and starts `ingest_batch`. "
    "Alerts once of each file that it cannot ingest.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult:
    """Register the complete files of the inbox; a file that is still being copied waits for the next tick."""
    return take_arrivals(context, settings)


def take_arrivals(
    context: dg.SensorEvaluationContext, settings: Settings, names: Names = PLAIN
) -> dg.SensorResult:
    """Register what has arrived, and return the runs that ingest it. The cursor holds the alerts."""
    inbox.prepare(settings.paths)
    found = inbox.scan(settings.paths)
    requests, waiting, stuck = [], [], [*_unfinished(settings.paths), *map(str, found.problems)]
    for arrival in found.arrivals:
        name = arrival.path.name
        try:
            requests.append(_request(context.instance, settings.paths, arrival, names))
        except BatchError as error:
            waiting.append(f"{name}: {error}")
        except _NotNowError as error:
            (stuck if error.stuck else waiting).append(f"{name}: {error}")
    alerts = [Alert(f"inbox: {line}", (f"it stays in {settings.paths.inbox}",)) for line in stuck]
    cursor = send_new(settings, alerts, context.cursor)
    waiting += [str(one) for one in found.left if one.waiting]
    if not requests:
        words = "; ".join(stuck + waiting) or f"nothing in {settings.paths.inbox}"
        return dg.SensorResult(skip_reason=words, cursor=cursor)
    for line in stuck + waiting:
        context.log.info(line)
    keys = [str(request.partition_key) for request in requests]
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=[_partitions(names).build_add_request(keys)],
        asset_events=changed_sources(settings, context.instance, names),  # before the runs that use them
        cursor=cursor,
    )


def _unfinished(paths: Paths) -> list[str]:
    """Delete what killed runs left half-moved, and return what cannot be deleted."""
    try:
        batch_registration.finish_taking(paths)
    except BatchError as error:
        return [str(error)]
    return []


def _partitions(names: Names) -> dg.DynamicPartitionsDefinition:
    return cast("dg.DynamicPartitionsDefinition", in_names(batches, names))


def _is_under_way(instance: dg.DagsterInstance, batch: str, names: Names) -> bool:
    """Whether a run works on a batch; another data set may have a batch of the same name."""
    runs = instance.get_runs(dg.RunsFilter(tags={_PARTITION_TAG: batch}, statuses=UNFINISHED))
    if names == PLAIN:
        return bool(runs)
    ours = {names.name(ingest_batch.name), names.name(jobs.everything.name)}
    return any(run.job_name in ours or any(map(names.asset, run.asset_selection or ())) for run in runs)


def _request(instance: dg.DagsterInstance, paths: Paths, arrival: Arrival, names: Names) -> dg.RunRequest:
    """Register an arrival and return the run that ingests it.

    The run's key names the run before it, if any: two ticks ask for one run, and what is dropped again
    after its batch was removed, or after a failure, is ingested again.
    """
    batch = arrival.batch
    if _is_under_way(instance, batch, names):
        raise _NotNowError(f"a run for {batch} is under way")
    before = instance.get_run_records(
        dg.RunsFilter(job_name=names.name(ingest_batch.name), tags={_PARTITION_TAG: batch}), limit=50
    )
    key = f"{arrival.sha256[:16]}-{arrival.fingerprint[:16]}"
    _check_attempts([one for one in before if one.dagster_run.tags.get(ARRIVAL_TAG) == key], arrival)
    inbox.take(paths, arrival)
    last = before[0].dagster_run.run_id if before else "first"
    return dg.RunRequest(
        run_key=f"{batch}-{arrival.sha256}-{last}", partition_key=batch, tags={ARRIVAL_TAG: key}
    )


def _check_attempts(records: Sequence[dg.RunRecord], arrival: Arrival) -> None:
    """Raise an error for a further attempt too soon after a failure, after too many, or a cancellation."""
    failures = 0
    for record in records:  # the latest first
        if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS:
            break
        failures += 1
    if not failures:
        return
    last = records[0]
    again = "touch" if isinstance(arrival.path, Path) else "upload again"
    mended = f"when the cause is corrected: captcha-assets update, or {again} {arrival.path}"
    if last.dagster_run.status == dg.DagsterRunStatus.CANCELED:
        raise _NotNowError(f"run {last.dagster_run.run_id[:8]} was canceled; {mended}", stuck=True)
    if failures > len(RETRY_AFTER):
        raise _NotNowError(
            f"{failures} runs failed, {last.dagster_run.run_id[:8]} the last; {mended}", stuck=True
        )
    due = (last.end_time or last.update_timestamp.timestamp()) + RETRY_AFTER[failures - 1]
    if time.time() < due:
        seconds = f"{due - time.time():.0f} s"
        raise _NotNowError(f"run {last.dagster_run.run_id[:8]} failed; tried again in {seconds}")
