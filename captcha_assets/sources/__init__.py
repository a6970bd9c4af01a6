"""Where batches come from: archives and folders, the inbox, Kaggle, the generator."""
