"""How assets are cut: one partition per delivery. Never per image."""

import dagster as dg

#: Name of the partition set, as the instance knows it.
BATCH = "batch"

batches = dg.DynamicPartitionsDefinition(name=BATCH)
