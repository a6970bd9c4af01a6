"""Drift of served predictions: does what the service sees still look like what the champion learned from?"""
