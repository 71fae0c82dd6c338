"""Instruments that count what a model does, exactly and without a clock."""
