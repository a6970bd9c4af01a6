"""Expectation suites, validation results, reports."""
