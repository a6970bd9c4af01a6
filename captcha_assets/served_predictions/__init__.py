"""What is made of the prediction log: tables by day, and the lineage of a prediction."""
