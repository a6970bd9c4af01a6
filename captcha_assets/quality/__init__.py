"""What a table must be like: expectations in, a plain verdict with its report out."""
