"""How assets are cut: one partition per delivery. Never per image."""

import dagster as dg

batches = dg.DynamicPartitionsDefinition(name="batch")
