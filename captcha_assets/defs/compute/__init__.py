"""The resource `compute`: where trainings run, on this machine or as jobs of a cluster."""
