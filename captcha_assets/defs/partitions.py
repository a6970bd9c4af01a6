"""Partition sets: one partition per batch, one per trial of a sweep, one per day with predictions."""

import dagster as dg

from captcha_assets.defs.names import Names

#: Names of the partition sets, as the instance knows them.
BATCH, TRIAL, DAY = "batch", "trial", "day"

batches = dg.DynamicPartitionsDefinition(name=BATCH)
trials = dg.DynamicPartitionsDefinition(name=TRIAL)
#: Days in UTC, `2026-11-28`. Dynamic: a day without predictions is no partition, so that it is not missing.
days = dg.DynamicPartitionsDefinition(name=DAY)


def in_names(partitions: dg.PartitionsDefinition | None, names: Names) -> dg.PartitionsDefinition | None:
    """Return the partition set of a data set that stands for one of these; None for an asset without any."""
    if not isinstance(partitions, dg.DynamicPartitionsDefinition):
        return partitions
    return dg.DynamicPartitionsDefinition(name=names.name(str(partitions.name)))
