"""From bytes to rows: reading batches, the image table, duplicates, the index and the splits."""
