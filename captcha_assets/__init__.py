"""From a delivery of labelled images to a promoted model, every step a Dagster asset."""
