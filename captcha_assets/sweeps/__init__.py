"""Sweeps: trainings with settings that are searched for, and the settings that won."""
