"""Predictions of the service and their corrections, by day."""
