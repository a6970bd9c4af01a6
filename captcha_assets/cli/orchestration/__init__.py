"""Operations on a Dagster instance that the commands need: staleness, materializing, backfills, status."""
