"""Partition sets: one partition per batch, one per trial of a sweep. Never per image."""

import dagster as dg

#: Names of the partition sets, as the instance knows them.
BATCH, TRIAL = "batch", "trial"

batches = dg.DynamicPartitionsDefinition(name=BATCH)
trials = dg.DynamicPartitionsDefinition(name=TRIAL)
