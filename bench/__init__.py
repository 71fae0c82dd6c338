"""The harness: cells in, records out, tables and verdicts from the records."""
