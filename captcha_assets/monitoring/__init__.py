"""Drift of served predictions against the images that the champion was trained and validated on."""
