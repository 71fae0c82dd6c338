"""Statements about methods, and their verdicts."""
