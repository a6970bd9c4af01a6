"""The prediction service: images come over HTTP, the champion answers. Imports neither torch nor Dagster."""
