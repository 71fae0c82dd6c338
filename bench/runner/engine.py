"""What an engine is: it takes a cell and returns the cell's record."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Protocol

from bench.records.cell import Cell
from bench.records.machine import commit, machine, versions
from bench.records.record import Record, Status

Listen = Callable[[str], object]
"""Is told what is being done now."""


class Engine(Protocol):
    """Measures cells: `bench.runner.local.LocalEngine` on this machine, a fake one in tests."""

    def measure(self, cell: Cell, study: str, listen: Listen) -> Record:
        """Measures one cell. If something goes wrong with the cell, the record says so."""


def implementations(cell: Cell) -> tuple[str, ...]:
    """The packages whose code is measured."""
    return (cell.implementation, *([] if cell.reference is None else [cell.reference.implementation]))


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
