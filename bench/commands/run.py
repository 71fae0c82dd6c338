"""``run`` and ``multirun``: from overrides to cells, to records, to tables."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, VERDICT, console, publish
from bench.config.schema import Sweep
from bench.errors import UsageError
from bench.records.record import Status
from bench.records.results import CheckedCell
from bench.records.store import Store
from bench.runner.local import LocalEngine
from bench.runner.process import ProcessRunner
from bench.runner.progress import Progress
from bench.runner.sweep import Summary, check_cells, refuse_if_none, run_sweep

TRACE = "bench.worker.trace:trace"


def run_command(overrides: Sequence[str], fresh: bool, dry_run: bool) -> int:
    """Measures one cell; returns the exit status.

    Raises:
        UsageError: something in the overrides must be corrected.
    """
    from bench.config.compose import compose_run

    return _run_sweeps([compose_run(overrides)], fresh, dry_run, None)


def multirun_command(overrides: Sequence[str], fresh: bool, dry_run: bool, minutes: float | None) -> int:
    """Measures the cells of one study after the other; returns the exit status.

    Raises:
        UsageError: ``minutes`` is not a time, or something in the overrides must be corrected.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--within must be a positive number of minutes, not {minutes}")
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    from bench.config.compose import compose_multirun

    return _run_sweeps(compose_multirun(overrides), fresh, dry_run, deadline)


def _run_sweeps(sweeps: Sequence[Sweep], fresh: bool, dry_run: bool, deadline: float | None) -> int:
    progress = Progress(console())
    runner = ProcessRunner(progress.beat)
    checked = [_check(sweep, runner, progress) for sweep in sweeps]  # all of them before the first cell starts
    if dry_run:
        for item in (item for cells in checked for item in cells):
            line = item.cell.id + (f"  skipped: {item.skip}" if item.skip else "")
            progress.console.print(line, markup=False, soft_wrap=True)
        return OK
    plans = zip(sweeps, checked, strict=True)
    return max([_run(sweep, cells, runner, fresh, deadline, progress) for sweep, cells in plans])


def _check(sweep: Sweep, runner: ProcessRunner, progress: Progress) -> list[CheckedCell]:
    for note in sweep.notes:
        progress.console.print(f"note: {note}", markup=False)
    store = Store(Path(sweep.results_dir))
    store.check()  # a folder that can't be used is refused before anything runs
    store.read()
    from bench.report.published import published

    published(sweep.study)
    return check_cells(sweep.cells, runner, progress)


def _run(
    sweep: Sweep,
    cells: Sequence[CheckedCell],
    runner: ProcessRunner,
    fresh: bool,
    deadline: float | None,
    progress: Progress,
) -> int:
    place, store = progress.console, Store(Path(sweep.results_dir))
    store.open()
    engine = LocalEngine(runner, sweep.time_limit)
    summary = run_sweep(cells, sweep.study, store, engine, progress, fresh, deadline)
    if summary.left == len(cells):
        place.print(f"{sweep.study}: no time was left for a cell; the same command goes on", markup=False)
        return OK
    refuse_if_none([record.reason if record.status is Status.SKIPPED else None for record in summary.records])
    if sweep.profile:
        _trace(summary, store, runner, sweep.time_limit, progress)
    from bench.report.records import records_report

    place.print()
    publish(records_report(summary.records), "text", None)
    _close(summary, store, progress)
    return VERDICT if summary.failed else OK


def _trace(summary: Summary, store: Store, runner: ProcessRunner, limit: float, progress: Progress) -> None:
    """Profiler traces of the cells that are ok, in a pass of their own."""
    folder = store.folder / "profile"
    for record in summary.records:
        if record.status is Status.OK:
            arguments = (record.cell.config, str(folder / record.cell_id))
            with progress.task(f"{record.cell_id}: tracing"):
                outcome = runner.call(TRACE, *arguments, limit_seconds=limit, listen=progress.phase)
            if outcome.status is not Status.OK:
                progress.console.print(f"{record.cell_id}: no trace: {outcome.reason}", markup=False)
    progress.console.print(f"traces: tensorboard --logdir {folder}", markup=False)


def _close(summary: Summary, store: Store, progress: Progress) -> None:
    """The last lines: how the cells ended and where their records are."""
    place = progress.console
    total = len(summary.records)
    counts = Counter(str(record.status) for record in summary.records)
    ended = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    cells = "1 cell" if total == 1 else f"{total} cells"
    place.print(f"{cells}: {ended}; {summary.seconds:.0f} s; records in {store.folder}", markup=False)
    if summary.left:
        place.print(f"time is up: {summary.left} more to run; the same command goes on", markup=False)
    if not summary.failed:
        place.print(
            f"for verdicts on what is said of these methods: python -m bench claims {store.folder}", markup=False
        )
    for record in summary.failed:
        place.print(f"  {record.cell_id} {record.status}: {record.reason}", markup=False)
    if summary.failed:
        place.print("the same command again runs only these", markup=False)
