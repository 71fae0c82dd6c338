"""What a verb does once its arguments are read: the flow from cells to records to tables, on one screen."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from bench.commands.output import OK, VERDICT
from bench.config.schema import Sweep
from bench.errors import UsageError
from bench.records.record import Status
from bench.records.results import Resolved
from bench.records.store import Store
from bench.report import render
from bench.report.published import published
from bench.runner.local import Children
from bench.runner.process import Launcher
from bench.runner.progress import Progress
from bench.runner.sweep import Summary, resolve_cells, run_sweep


def run_command(sweeps: Sequence[Sweep], fresh: bool, dry_run: bool, minutes: float | None = None) -> int:
    """Runs sweeps one after the other and prints their tables; returns the exit status.

    Raises:
        UsageError: ``minutes`` is no time, or something is to be put right in what a sweep asks for.
    """
    if minutes is not None and not 0 < minutes < math.inf:
        raise UsageError(f"--within must be a positive number of minutes, not {minutes}")
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    launcher = Launcher()
    checked = [_check(sweep, launcher) for sweep in sweeps]  # all of them before the first cell starts
    plans = zip(sweeps, checked, strict=True)
    return max([_run(sweep, cells, launcher, fresh, dry_run, deadline) for sweep, cells in plans])


def _check(sweep: Sweep, launcher: Launcher) -> list[Resolved]:
    console = Console(highlight=False)
    for note in sweep.notes:
        console.print(f"note: {note}", markup=False)
    store = Store(Path(sweep.results_dir))
    store.check()  # a folder that can't be used is refused before anything runs
    store.read()
    published(sweep.study)
    with console.status("checking every cell") if console.is_terminal else nullcontext():
        cells = resolve_cells(sweep.cells, launcher, str)
    _refuse_if_none([item.skip for item in cells])
    return cells


def _run(
    sweep: Sweep,
    resolved: Sequence[Resolved],
    launcher: Launcher,
    fresh: bool,
    dry_run: bool,
    deadline: float | None,
) -> int:
    console = Console(highlight=False)
    if dry_run:
        for item in resolved:
            line = item.cell.id + (f"  skipped: {item.skip}" if item.skip else "")
            console.print(line, markup=False, soft_wrap=True)
        return OK
    store = Store(Path(sweep.results_dir))
    store.open()
    measure = Children(launcher, sweep.time_limit)
    summary = run_sweep(resolved, sweep.study, store, measure, Progress(console), fresh, deadline)
    if summary.left == len(resolved):
        console.print(f"{sweep.study}: no time was left for a cell; the same command goes on", markup=False)
        return OK
    _refuse_if_none([r.reason if r.status is Status.SKIPPED else None for r in summary.records])
    if sweep.profile:
        _trace(summary, store, launcher, sweep.time_limit, console)
    console.print()
    render.print_table(summary.records, console)
    _close(summary, store, console)
    return VERDICT if summary.failed else OK


def _refuse_if_none(skips: Sequence[str | None]) -> None:
    """A sweep goes on past a cell that can't be run; where none can, there is something to put right."""
    reasons = list(dict.fromkeys(reason for reason in skips if reason is not None))
    if None not in skips:
        raise UsageError(reasons[0] + (f" (and {len(reasons) - 1} more like it)" if len(reasons) > 1 else ""))


def _trace(summary: Summary, store: Store, launcher: Launcher, limit: float, console: Console) -> None:
    """Profiler traces of the cells that ran well, in a pass of their own."""
    folder = store.folder / "profile"
    for record in summary.records:
        if record.status is Status.OK:
            arguments = (record.cell.config, str(folder / record.cell_id))
            outcome = launcher.call("bench.worker.trace:trace", *arguments, limit_seconds=limit)
            if outcome.status is not Status.OK:
                console.print(f"{record.cell_id}: no trace: {outcome.reason}", markup=False)
    console.print(f"traces: tensorboard --logdir {folder}", markup=False)


def _close(summary: Summary, store: Store, console: Console) -> None:
    """The last lines: how the cells ended and where their records are."""
    total = len(summary.records)
    counts = Counter(str(record.status) for record in summary.records)
    ended = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    cells = "1 cell" if total == 1 else f"{total} cells"
    console.print(
        f"{cells}: {ended}; {summary.seconds:.0f} s; records in {store.folder}",
        markup=False,
    )
    if summary.left:
        console.print(f"time is up: {summary.left} more to run; the same command goes on", markup=False)
    if not summary.failed:
        console.print(f"verdicts on what is said of these methods: python -m bench claims {store.folder}", markup=False)
    for record in summary.failed:
        console.print(f"  {record.cell_id} {record.status}: {record.reason}", markup=False)
    if summary.failed:
        console.print("the same command again runs these and nothing else", markup=False)
