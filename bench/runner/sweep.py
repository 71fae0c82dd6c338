"""A sweep: resolve all cells, run what is missing, write each record as soon as its cell ends."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.errors import UsageError
from bench.records.cell import Cell
from bench.records.record import Record, Status
from bench.records.results import Resolved
from bench.records.store import Store
from bench.runner.engine import Measure, skipped
from bench.runner.process import Launcher
from bench.runner.progress import Progress

RESOLVE_LIMIT_SECONDS = 600.0


@dataclass
class Summary:
    """What a sweep did."""

    ran: list[Record] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    """Records that were there already."""
    seconds: float = 0.0
    left: int = 0
    """Cells that were not started, for want of time."""

    @property
    def records(self) -> list[Record]:
        """All records of the sweep's cells."""
        return [*self.kept, *self.ran]

    @property
    def failed(self) -> list[Record]:
        """Cells that should have run and did not end well."""
        return [r for r in self.records if r.status not in (Status.OK, Status.SKIPPED)]


def resolve_cells(
    configs: Sequence[dict[str, object]],
    launcher: Launcher,
    listen: Callable[[str], object],
    check: str = "bench.worker.check:resolve_all",
) -> list[Resolved]:
    """Checks every cell before the first one starts, and drops those that resolve to the same thing.

    Raises:
        UsageError: a cell is refused; the line says how many more are.
    """
    listen("checking every cell")
    outcome = launcher.call(check, configs, limit_seconds=RESOLVE_LIMIT_SECONDS)
    if outcome.status is not Status.OK:
        raise UsageError(f"the cells can't be checked: {outcome.reason}")
    found: list[Resolved | str] = outcome.value
    refused = list(dict.fromkeys(item for item in found if isinstance(item, str)))
    if refused:
        more = f" (and {len(refused) - 1} more like it)" if len(refused) > 1 else ""
        raise UsageError(refused[0] + more)
    unique = {item.cell.id: item for item in found if isinstance(item, Resolved)}
    return list(unique.values())


def run_sweep(
    resolved: Sequence[Resolved],
    study: str,
    store: Store,
    measure: Measure,
    progress: Progress,
    fresh: bool,
    deadline: float | None = None,
) -> Summary:
    """Runs the cells whose record is missing or did not end well; with ``fresh`` all of them.

    ``deadline``, by `time.monotonic`: no cell is started that would end later, were it as long as the folder's longest.

    Raises:
        UsageError: a record of the folder can't be read.
    """
    there = store.read()
    summary = Summary()
    todo: list[Resolved] = []
    for item in resolved:
        record = there.get(item.cell.id)
        if record is not None and _stands(record, item) and not fresh:
            summary.kept.append(record)
        else:
            todo.append(item)
    started = time.monotonic()
    with progress.sweep(len(todo), len(summary.kept)):
        for number, item in enumerate(todo):
            longest = max((record.seconds for record in (*there.values(), *summary.ran)), default=0.0)
            if deadline is not None and time.monotonic() + longest > deadline:
                summary.left = len(todo) - number
                break
            summary.ran.append(_run_cell(item, study, store, measure, progress))
    summary.seconds = time.monotonic() - started
    return summary


def _stands(record: Record, item: Resolved) -> bool:
    """Whether a record need not be made again: it ended well, or its cell is still skipped for the same reason."""
    return record.status is Status.OK or (record.status is Status.SKIPPED and record.reason == item.skip)


def _run_cell(item: Resolved, study: str, store: Store, measure: Measure, progress: Progress) -> Record:
    cell: Cell = item.cell
    progress.begin(cell)
    record = measure(cell, study, progress.phase) if item.skip is None else skipped(cell, study, item.skip)
    try:
        store.write(record)
    except ValueError:  # a figure is not a number: the record says so instead of being lost
        reason = "a figure is not a finite number"
        record = dataclasses.replace(record, status=Status.FAILED, reason=reason, readings=(), pairs=(), facts={})
        store.write(record)
    progress.end(record)
    return record
