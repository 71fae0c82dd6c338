"""The report on records: comparison tables, methods vs. their references, and measured vs. published values."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.record import Record
from bench.report.comparison import comparison_tables
from bench.report.frame import export
from bench.report.head_to_head import reference_tables
from bench.report.published import published_tables
from bench.report.table import Report


def records_report(records: Sequence[Record]) -> Report:
    """Everything that the records say, except verdicts on claims."""
    tables = [*comparison_tables(records), *reference_tables(records), *published_tables(records)]
    return Report(tables, frame=export(records))
