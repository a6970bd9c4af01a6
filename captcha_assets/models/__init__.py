"""Models: the folder that explains itself, the registry, ONNX and prediction."""
