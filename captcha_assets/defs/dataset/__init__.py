"""All batches together: distinct images and the split of each."""
