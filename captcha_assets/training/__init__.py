"""Training: a job file in, a model folder out, in a process of its own."""
