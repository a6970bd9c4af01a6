"""From a batch of labelled character images to a promoted model, every step a Dagster asset."""
