"""``baseline save`` and ``check``: the regression gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, check_file, console, publish
from bench.config.schema import check_margin
from bench.errors import UsageError
from bench.gate.baseline import load_baseline, make_baseline, save_baseline
from bench.gate.report import checks_report, github_annotations, write_junit
from bench.gate.rerun import check_again, check_against, records_folder, status_of
from bench.records.record import Status
from bench.records.store import Store, read_paths
from bench.runner.local import LocalEngine
from bench.runner.process import ProcessRunner
from bench.runner.progress import Progress
from bench.runner.sweep import check_cells


def save_command(name: str, paths: Sequence[Path], folder: Path, replace: bool) -> int:
    """Makes a baseline of records.

    Raises:
        UsageError: there are no records that are ok, or there is a baseline of this name.
    """
    records = read_paths(paths)
    baseline = make_baseline(name, records)
    path = save_baseline(folder, baseline, replace)
    place = console()
    for record in records:
        if record.status is not Status.OK:
            place.print(f"left out: {record.cell_id} {record.status}: {record.reason}", markup=False, soft_wrap=True)
    place.print(
        f"{len(baseline.cells)} cells are saved in {path}; to check: python -m bench check {name}", markup=False
    )
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
    """Checks a fresh run, or existing records, against a baseline; returns the exit status.

    Raises:
        UsageError: an option has no such value, or there is no such baseline.
    """
    baseline = load_baseline(folder, name)
    if threshold is not None:
        try:
            check_margin(threshold)
        except ValueError as error:
            raise UsageError(f"--threshold: {error}") from error
    check_file("--junit", junit)
    store = Store(records_folder(results, name))
    if against:
        checks = check_against(baseline, read_paths(against), threshold)
    else:
        store.check()
        store.read()
        progress = Progress(console())
        runner = ProcessRunner(progress.beat)
        cells = check_cells([dict(cell.cell.config) for cell in baseline.cells], runner, progress)
        checks = check_again(baseline, cells, store, LocalEngine(runner, limit), threshold, progress)
    records = " ".join(map(str, against)) if against else str(store.folder)
    publish(checks_report(checks, f"python -m bench baseline save {name} {records} --replace"), "text", None)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        sys.stdout.writelines(f"{line}\n" for line in github_annotations(checks))
    if junit is not None:
        write_junit(checks, name, strict, junit)
    return status_of(checks, strict)
