"""``pareto``: names the methods that no other beats on all axes at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, check_output, publish
from bench.records.store import read_paths

FORMATS = ("text", "md", "latex", "csv", "json")


def pareto_command(paths: Sequence[Path], axes: str | None, format: str, output: Path | None) -> int:
    """Prints or writes which methods are on the front, and what dominates each of the others.

    Raises:
        UsageError: an option has no such value, there are no records, or none has the axes.
    """
    check_output(format, FORMATS, output)
    records = read_paths(paths)
    from bench.report.axes import read_axes
    from bench.report.pareto import pareto_report

    publish(pareto_report(records, None if axes is None else read_axes(axes.split(","))), format, output)
    return OK
