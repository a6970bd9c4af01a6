"""All deliveries together: distinct images and the place of each."""
