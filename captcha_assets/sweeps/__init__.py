"""Sweeps: trials of training settings, and the settings of the best trial."""
