"""What the service saw and said, and what people said of it."""
