"""Partition sets: one partition per batch, one per trial of a sweep, one per day with predictions."""

import dagster as dg

#: Names of the partition sets, as the instance knows them.
BATCH, TRIAL, DAY = "batch", "trial", "day"

batches = dg.DynamicPartitionsDefinition(name=BATCH)
trials = dg.DynamicPartitionsDefinition(name=TRIAL)
#: Days in UTC, `2026-11-28`. Dynamic: a day without predictions is no partition, so that it is not missing.
days = dg.DynamicPartitionsDefinition(name=DAY)
