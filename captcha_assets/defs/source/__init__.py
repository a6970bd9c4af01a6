"""Where the data comes from: batches, Kaggle's published version, DVC's record."""
