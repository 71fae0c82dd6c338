"""``baseline save`` and ``check``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.commands.output import OK
from bench.errors import UsageError
from bench.gate.baseline import load_baseline, make_baseline, save_baseline
from bench.gate.report import github_annotations, print_checked, print_conclusion, write_junit
from bench.gate.rerun import check_again, check_against, records_folder, status_of
from bench.records.record import Status
from bench.records.stats import margin_log
from bench.records.store import Store, read_paths
from bench.runner.local import Children
from bench.runner.process import Launcher
from bench.runner.sweep import resolve_cells


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
