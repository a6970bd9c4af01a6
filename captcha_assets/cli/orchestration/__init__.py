"""Operations on a Dagster instance that the commands need: what is stale, making it, backfills, status."""
