"""The prediction log as tables by day, and the lineage of a prediction."""
