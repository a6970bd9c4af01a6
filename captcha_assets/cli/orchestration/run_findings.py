"""What a person should know of a finished run: checks that failed without blocking, and rejected files."""

from collections.abc import Iterator, Sequence

import dagster as dg


def findings(events: Sequence[dg.DagsterEvent], partition: str | None, *, succeeded: bool) -> tuple[str, ...]:
    """Return what a run found, one line each; of a run that failed, its error names the checks.

    Args:
        events: of the run.
        partition: what it materialized; None for assets without partitions.
        succeeded: whether it did.
    """
    of_partition = f" [{partition}]" if partition else ""
    return (*(_warnings(events, of_partition) if succeeded else ()), *_rejected(events, of_partition))


def _warnings(events: Sequence[dg.DagsterEvent], of_partition: str) -> Iterator[str]:
    for event in events:
        check = event.event_specific_data
        if isinstance(check, dg.AssetCheckEvaluation) and not check.passed:
            words = f": {check.description}" if check.description else ""
            yield f"warning: {check.asset_key.to_user_string()}{of_partition}: {check.check_name}{words}"


def _rejected(events: Sequence[dg.DagsterEvent], of_partition: str) -> Iterator[str]:
    made = [
        event.step_materialization_data.materialization for event in events if event.is_step_materialization
    ]
    counts = {one.asset_key.to_user_string(): one.metadata.get("dagster/partition_row_count") for one in made}
    usable, rejected = (
        int(str(count.value)) if (count := counts.get(table)) else 0
        for table in ("image_table", "rejected_images")
    )
    if rejected:
        files = f"{rejected:,} of {usable + rejected:,} files"
        yield f"image_table{of_partition}: {files} rejected, see rejected_images"
