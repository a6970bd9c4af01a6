"""Removal of a batch, by a command here or because it was removed on another machine."""

from collections.abc import Callable

import dagster as dg

from captcha_assets.defs import lost_outputs
from captcha_assets.defs.automation_history import delete_unreadable
from captcha_assets.defs.partitions import BATCH
from captcha_assets.paths import Paths
from captcha_assets.sources import batch_registration, dvc_snapshot


def remove_batch(
    paths: Paths, instance: dg.DagsterInstance, batch: str, progress: Callable[[str], None]
) -> None:
    """Remove a batch: its partition, tables, reports, archive and registration.

    The partition goes first: a kill then leaves either a registered batch, which gets its partition back, or
    nothing.

    Raises:
        BatchError: there is no such batch, or a file cannot be removed.
    """
    from captcha_assets.quality import report

    if batch_registration.has_left(paths, batch):
        lost_outputs.report_removed(instance, batch)
        batch_registration.remove(paths, batch, progress=progress)
    elif not instance.has_dynamic_partition(BATCH, batch):
        raise batch_registration.unknown_batch(paths, batch)
    lost_outputs.report_removed(instance, batch)  # another command may have seen the batch meanwhile
    delete_unreadable(instance)
    report.publish_history(paths, instance.get_dynamic_partitions(BATCH))  # the page links to its report


def apply_remote_removals(paths: Paths, instance: dg.DagsterInstance) -> None:
    """Remove the batches that are neither registered here nor in DVC's record of `data/`.

    `dvc pull` takes the archive away when the batch was removed on another machine. Hosts that share a
    database share the partitions: there a removal is complete at once.
    """
    if paths.profile == "shared":
        return
    unknown = set(instance.get_dynamic_partitions(BATCH)) - set(batch_registration.known_batches(paths))
    if not unknown:
        return
    recorded = dvc_snapshot.recorded_md5s(paths.home)
    for batch in sorted(unknown):
        if recorded is not None and f"raw/{batch}.zip" not in recorded:
            remove_batch(paths, instance, batch, lambda _: None)
