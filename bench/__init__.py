"""The harness: cells in, records out, tables and verdicts from the records."""

__version__ = "0.1.0"
