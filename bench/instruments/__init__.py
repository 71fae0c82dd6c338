"""Measuring devices: time, memory, structure, card; they know no cell."""
