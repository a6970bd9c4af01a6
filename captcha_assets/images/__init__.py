"""From bytes to rows: reading deliveries, the image table, duplicates, the index and the splits."""
