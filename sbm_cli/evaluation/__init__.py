"""Evaluation: test sets, metrics and reports."""
