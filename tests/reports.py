"""Reports as tests look at them."""

from __future__ import annotations

import io

from rich.console import Console

from bench.records.record import Record
from bench.report.records import records_report
from bench.report.render import print_report, render
from bench.report.table import Report, Table


def notes(table: Table) -> list[str]:
    """The sentences below a table."""
    return [note.text for note in table.notes]


def printed(report: Report, width: int = 80) -> str:
    """What a terminal of this width shows."""
    console = Console(file=io.StringIO(), width=width)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def written(records: list[Record], format: str) -> bytes:
    """The report on records as a file."""
    return render(records_report(records), format)
