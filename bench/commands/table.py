"""``table``: compares what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, check_output, publish
from bench.records.store import read_paths

FORMATS = ("text", "md", "latex", "csv", "parquet")


def table_command(paths: Sequence[Path], format: str, output: Path | None) -> int:
    """Prints or writes the comparison of stored records.

    Raises:
        UsageError: an option has no such value, or there are no records.
    """
    check_output(format, FORMATS, output)
    records = read_paths(paths)
    from bench.report.records import records_report  # pandas takes longer than a wrong path should take to be refused

    publish(records_report(records), format, output)
    return OK
