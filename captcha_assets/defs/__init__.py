"""The Dagster definitions: assets, checks, sensors, policies. The library does the work."""
