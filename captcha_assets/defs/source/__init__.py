"""Where the data comes from: deliveries, Kaggle's published version, DVC's record."""
