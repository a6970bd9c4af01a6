"""Everything Dagster: assets, checks, sensors, policies. What they do lives in the library below."""
