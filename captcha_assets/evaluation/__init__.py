"""Evaluation of a model: metrics, plots, a report, and the comparison with the champion."""
