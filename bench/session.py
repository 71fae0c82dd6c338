"""What a verb does once its arguments are read: the flow from cells to records to tables, on one screen."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from bench import render
from bench.claims.load import load_claims
from bench.claims.report import CLAIM_FORMATS, print_claims, render_claims
from bench.claims.verdict import judge_all, surprising
from bench.config.schema import Sweep
from bench.errors import UsageError
from bench.gate.baseline import load_baseline, make_baseline, save_baseline
from bench.gate.report import github_annotations, print_checked, print_conclusion, print_rates, write_junit
from bench.gate.rerun import check_again, check_against, records_folder, status_of
from bench.gate.selftest import read_trials, run_trials, trials_path
from bench.published import published
from bench.records.record import Status
from bench.records.results import Resolved
from bench.records.stats import margin_log
from bench.records.store import Store, read_paths
from bench.runner.local import Children
from bench.runner.process import Launcher
from bench.runner.progress import Progress
from bench.runner.sweep import Summary, resolve_cells, run_sweep

OK, VERDICT = 0, 1


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


def claims_command(paths: Sequence[Path], format: str, output: Path | None, folder: Path | None) -> int:
    """Prints or writes the verdicts on the claims; status 1 where one is the contrary of what its file expects."""
    if format not in CLAIM_FORMATS:
        raise UsageError(f"--format {format}: there are {', '.join(CLAIM_FORMATS)}")
    if format == "text" and output is not None:
        raise UsageError("--output needs --format md or json")
    judgements = judge_all(load_claims(folder), read_paths(paths))
    if format == "text":
        print_claims(judgements, Console(highlight=False))
    elif output is not None:
        _write(output, render_claims(judgements, format))
    else:
        sys.stdout.write(render_claims(judgements, format).decode())
    return VERDICT if any(surprising(judgement) for judgement in judgements) else OK


def save_command(name: str, paths: Sequence[Path], folder: Path, replace: bool) -> int:
    """Makes a baseline of records."""
    records = read_paths(paths)
    baseline = make_baseline(name, records)
    path = save_baseline(folder, baseline, replace)
    left = [record for record in records if record.status is not Status.OK]
    console = Console(highlight=False)
    for record in left:
        console.print(f"left out: {record.cell_id} {record.status}: {record.reason}", markup=False, soft_wrap=True)
    console.print(f"{len(baseline.cells)} cells are kept in {path}; check: python -m bench check {name}", markup=False)
    return OK


def check_command(
    name: str,
    against: Sequence[Path] | None,
    threshold: float | None,
    strict: bool,
    junit: Path | None,
    folder: Path,
    results: Path,
    limit: float,
) -> int:
    """Checks a run, or records that are there, against a baseline; returns the exit status."""
    console = Console(highlight=False)
    baseline = load_baseline(folder, name)
    _check_options(threshold, junit)
    store = Store(records_folder(results, name))
    if against:
        checked = check_against(baseline, read_paths(against), threshold)
    else:
        store.check()
        store.read()
        launcher = Launcher()
        cells = resolve_cells([dict(kept.cell.config) for kept in baseline.cells], launcher, str)
        measure = Children(launcher, limit)
        checked = check_again(baseline, cells, store, measure, threshold, console)
    print_checked(checked, console)
    records = " ".join(map(str, against)) if against else str(store.folder)
    print_conclusion(checked, f"python -m bench baseline save {name} {records} --replace", console)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        sys.stdout.writelines(f"{line}\n" for line in github_annotations(checked))
    if junit is not None:
        write_junit(checked, name, strict, junit)
    return status_of(checked, strict)


def _check_options(threshold: float | None, junit: Path | None) -> None:
    if threshold is not None:
        try:
            margin_log(threshold)
        except ValueError as error:
            raise UsageError(f"--threshold: {error}") from error
    if junit is not None and (junit.is_dir() or not junit.absolute().parent.is_dir()):
        raise UsageError(f"--junit {junit}: give a file in a folder that is there")


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
            outcome = launcher.call("bench.worker.trace:trace", *arguments, limit_seconds=limit)
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
    if summary.left:
        console.print(f"time is up: {summary.left} more to run; the same command goes on", markup=False)
    if not summary.failed:
        console.print(f"verdicts on what is said of these methods: python -m bench claims {store.folder}", markup=False)
    for record in summary.failed:
        console.print(f"  {record.cell_id} {record.status}: {record.reason}", markup=False)
    if summary.failed:
        console.print("the same command again runs these and nothing else", markup=False)
