"""A sweep: it checks all cells, runs those that are missing, and writes each record as soon as its cell ends."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.errors import UsageError, refuse
from bench.records.cell import Cell
from bench.records.conditions import differing, packages, surroundings
from bench.records.machine import machine, versions
from bench.records.record import Missing, Record, Status
from bench.records.results import CheckedCell
from bench.records.store import Store
from bench.runner.engine import Engine, implementations, skipped
from bench.runner.process import ProcessRunner
from bench.runner.progress import Progress

CHECK_LIMIT_SECONDS = 600.0


@dataclass
class Summary:
    """What a sweep did."""

    ran: list[Record] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    """Records that were there already."""
    seconds: float = 0.0
    left: int = 0
    """Cells that were not started because the time was up."""

    @property
    def records(self) -> list[Record]:
        """All records of the sweep's cells."""
        return [*self.kept, *self.ran]

    @property
    def failed(self) -> list[Record]:
        """Cells that should have run and did not end well."""
        return [r for r in self.records if r.status not in (Status.OK, Status.SKIPPED)]


def check_cells(
    configs: Sequence[dict[str, object]],
    runner: ProcessRunner,
    progress: Progress,
    check: str = "bench.worker.check:check_all",
) -> list[CheckedCell]:
    """Checks every cell before the first one starts, and drops cells that are the same as another.

    Raises:
        UsageError: something that was typed is wrong, or no cell can be run; the line says how many more are like it.
    """
    with progress.task("checking every cell"):
        outcome = runner.call(check, configs, limit_seconds=CHECK_LIMIT_SECONDS, listen=progress.phase)
    if outcome.status is not Status.OK:
        raise UsageError(f"the cells can't be checked: {outcome.reason}")
    found: list[CheckedCell | str] = outcome.value
    refuse(item for item in found if isinstance(item, str))
    unique = {item.cell.id: item for item in found if isinstance(item, CheckedCell)}
    refuse_if_none([item.skip for item in unique.values()])
    return list(unique.values())


def refuse_if_none(skips: Sequence[str | None]) -> None:
    """A sweep goes on past a cell that can't be run. If none can be run, something must be corrected.

    ``skips``: for each cell why it is skipped, None for one that is not.

    Raises:
        UsageError: all are skipped.
    """
    if None not in skips:
        refuse(reason for reason in skips if reason is not None)


def run_sweep(
    cells: Sequence[CheckedCell],
    study: str,
    store: Store,
    engine: Engine,
    progress: Progress,
    fresh: bool,
    deadline: float | None = None,
) -> Summary:
    """Runs the cells whose record is missing or not ok; with ``fresh`` all of them.

    ``deadline``, by `time.monotonic`: no cell starts that would end later if it took as long as the folder's longest.

    Raises:
        UsageError: a record of the folder can't be read.
    """
    there = store.read()
    summary = Summary()
    todo: list[CheckedCell] = []
    moved: list[dict[str, tuple[object, object]]] = []
    for item in cells:
        record = there.get(item.cell.id)
        if record is not None and _stands(record, item) and not fresh:
            summary.kept.append(record)
            moved.append(_moved(record, item))
        else:
            todo.append(item)
    started = time.monotonic()
    with progress.sweep(len(todo), _kept_line(moved)):
        for number, item in enumerate(todo):
            longest = max((record.seconds for record in (*there.values(), *summary.ran)), default=0.0)
            if deadline is not None and time.monotonic() + longest > deadline:
                summary.left = len(todo) - number
                break
            summary.ran.append(_run_cell(item, study, store, engine, progress))
    summary.seconds = time.monotonic() - started
    return summary


def _stands(record: Record, item: CheckedCell) -> bool:
    """Whether a record can stay: it is ok, or its cell is still skipped for the same reason."""
    return record.status is Status.OK or (record.status is Status.SKIPPED and record.reason == item.skip)


def _moved(record: Record, item: CheckedCell) -> dict[str, tuple[object, object]]:
    """Where a record was measured on another machine, or with other versions, than it would be now: both values."""
    if record.status is not Status.OK:
        return {}
    used = versions(*implementations(record.cell), *record.metadata.get("packages", ()))
    now = dataclasses.replace(record, machine={**machine(), **item.machine}, versions=used)
    then, today = ({**surroundings(one), **packages(one)} for one in (record, now))
    return {key: (then.get(key), today.get(key)) for key in differing((then, today))}


def _kept_line(moved: Sequence[Mapping[str, tuple[object, object]]]) -> str:
    """What is said of the records that stay, empty if there are none. ``moved``: of each what `_moved` gives."""
    if not moved:
        return ""
    line = "1 cell is recorded already" if len(moved) == 1 else f"{len(moved)} cells are recorded already"
    if apart := [one for one in moved if one]:
        changes = sorted({f"{key} {then}, now {today}" for one in apart for key, (then, today) in one.items()})
        line += f", {len(apart)} of them elsewhere ({'; '.join(changes)}), which no table compares with new ones"
    return f"{line}; --fresh measures them again"


def _run_cell(item: CheckedCell, study: str, store: Store, engine: Engine, progress: Progress) -> Record:
    cell: Cell = item.cell
    progress.begin(cell)
    record = engine.measure(cell, study, progress.phase) if item.skip is None else skipped(cell, study, item.skip)
    record = _finite(dataclasses.replace(record, machine={**record.machine, **item.machine}))
    store.write(record)
    progress.end(record)
    return record


def _finite(record: Record) -> Record:
    """The record as it can be written: a number that is not finite is missing, and the cell has failed; all else stays.

    JSON has no such numbers. What describes the run, and can be a plug-in's own, is left out part by part.
    """
    broken = [one for one in record.measurements if not math.isfinite(one.value)]
    unwritable = [key for key, value in record.metadata.items() if not _is_json(value)]
    if not broken and not unwritable:
        return record
    found = [
        *(f"{one.metric} ({one.state}) came out as {one.value}" for one in broken),
        *(f"metadata.{key} holds what JSON can't" for key in unwritable),
    ]
    return dataclasses.replace(
        record,
        status=Status.FAILED if record.status is Status.OK else record.status,
        reason=record.reason or found[0] + (f", and {len(found) - 1} more" if found[1:] else ""),
        measurements=tuple(one for one in record.measurements if one not in broken),
        missing=(*record.missing, *(Missing(one.metric, one.state, f"it came out as {one.value}") for one in broken)),
        metadata={key: value for key, value in record.metadata.items() if key not in unwritable},
    )


def _is_json(value: object) -> bool:
    """Whether a value can be written: only what JSON has, and no number that is not finite."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
