"""The protocol of an engine: it turns a cell into its record."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Protocol

from bench.records.cell import Cell
from bench.records.machine import commit, machine, versions
from bench.records.record import Record, Status

Listen = Callable[[str], object]


class Measure(Protocol):
    """Turns a cell into its record; `measure_cell` does, and a fake one does in tests."""

    def __call__(self, cell: Cell, study: str, listen: Listen) -> Record:
        """Measures; whatever goes wrong with the cell is in the record."""


def implementations(cell: Cell) -> tuple[str, ...]:
    """The packages whose code is measured."""
    return (cell.implementation, *([] if cell.rival is None else [cell.rival.implementation]))


def skipped(cell: Cell, study: str, reason: str) -> Record:
    """The record of a cell that can't be run."""
    return Record(
        cell_id=cell.id,
        study=study,
        status=Status.SKIPPED,
        reason=reason,
        cell=cell,
        machine=machine(),
        versions=versions(*implementations(cell)),
        commit=commit(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
