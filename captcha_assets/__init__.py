"""From a batch of labelled images to a promoted model, every step a Dagster asset."""
