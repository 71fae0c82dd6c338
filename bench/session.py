"""What a verb does once its arguments are read: the flow from cells to records to tables, on one screen."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from bench import render
from bench.cell import Children
from bench.config import Sweep
from bench.errors import UsageError
from bench.launch import Launcher
from bench.progress import Progress
from bench.records import Status
from bench.render import print_rates
from bench.selftest import read_trials, run_trials, trials_path
from bench.store import Store, read_paths
from bench.sweep import Summary, resolve_cells, run_sweep

OK, VERDICT = 0, 1


def run_command(sweep: Sweep, fresh: bool, dry_run: bool) -> int:
    """Runs a sweep and prints its table; returns the exit status."""
    console = Console(highlight=False)
    for note in sweep.notes:
        console.print(f"note: {note}", markup=False)
    store = Store(Path(sweep.results_dir))
    store.check()  # a folder that can't be used is refused before anything runs
    store.read()
    launcher = Launcher()
    with console.status("checking every cell") if console.is_terminal else nullcontext():
        resolved = resolve_cells(sweep.cells, launcher, str)
    if dry_run:
        for item in resolved:
            line = item.cell.id + (f"  skipped: {item.skip}" if item.skip else "")
            console.print(line, markup=False, soft_wrap=True)
        return OK
    store.open()
    summary = run_sweep(resolved, sweep.study, store, Children(launcher, sweep.time_limit), Progress(console), fresh)
    if sweep.profile:
        _trace(summary, store, launcher, sweep.time_limit, console)
    console.print()
    render.print_table(summary.records, console)
    _close(summary, store, console)
    return VERDICT if summary.failed else OK


def table_command(paths: Sequence[Path], format: str, output: Path | None) -> int:
    """Prints or writes the comparison of stored records."""
    if format not in render.FORMATS:
        raise UsageError(f"--format {format}: there are {', '.join(render.FORMATS)}")
    records = read_paths(paths)
    if format == "text" and output is None:
        render.print_table(records, Console(highlight=False))
        return OK
    if format == "text":
        raise UsageError("--output needs --format md, csv, latex or parquet")
    if format == "parquet" and output is None:
        raise UsageError("--format parquet needs --output FILE")
    content = render.render(records, format)
    if output is not None:
        _write(output, content)
    else:
        sys.stdout.write(content.decode())
    return OK


def selftest_command(sweep: Sweep, runs: int, noisy: bool, folder: Path) -> int:
    """Runs what is missing of the trials and prints the error rates of all there are in the folder."""
    console = Console(highlight=False)
    path = trials_path(folder, noisy)
    launcher = Launcher()
    (item,) = resolve_cells(sweep.cells, launcher, str)
    run_trials(path, item, runs, noisy, Children(launcher, sweep.time_limit), console)
    print_rates([read_trials(path) for path in sorted(folder.glob("*.json"))], console)
    return OK


def _trace(summary: Summary, store: Store, launcher: Launcher, limit: float, console: Console) -> None:
    """Profiler traces of the cells that ran well, in a pass of their own."""
    folder = store.folder / "profile"
    for record in summary.records:
        if record.status is Status.OK:
            arguments = (record.cell.config, str(folder / record.cell_id))
            outcome = launcher.call("bench.profiling:trace", *arguments, limit_seconds=limit)
            if outcome.status is not Status.OK:
                console.print(f"{record.cell_id}: no trace: {outcome.reason}", markup=False)
    console.print(f"traces: tensorboard --logdir {folder}", markup=False)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--output {path}: {error.strerror}") from error


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
    for record in summary.failed:
        console.print(f"  {record.cell_id} {record.status}: {record.reason}", markup=False)
    if summary.failed:
        console.print("the same command again runs these and nothing else", markup=False)
