"""Metrics of a run that never took place."""
