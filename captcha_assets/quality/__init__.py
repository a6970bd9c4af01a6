"""What a table must be like: expectation suites, validation results, reports."""
