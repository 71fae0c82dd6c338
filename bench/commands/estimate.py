"""``estimate``: from cells to estimates to tables, and estimates vs. records."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from bench.commands.output import OK, VERDICT, check_output, console, publish
from bench.errors import UsageError
from bench.estimate.estimate import GIB, Estimate, EstimateResults, Request, compare
from bench.records.record import CONTROL, Measurement, Status
from bench.records.results import CheckedCell
from bench.records.store import read_paths
from bench.runner.process import ProcessRunner
from bench.runner.progress import Progress
from bench.runner.sweep import check_cells

FORMATS = ("text", "md", "csv", "json")
LARGEST_CARD_GIB = 1e6
"""More is a typing error."""
LIMIT_SECONDS = 1800.0
"""For the estimate of a record. The estimate of a cell has the sweep's ``time_limit``."""
CHECK = "bench.worker.check:check_elsewhere"
ESTIMATE = "bench.worker.estimate:estimate_cell"
SHARED = ("model", "workload", "device", "runtime")
"""Parts of a configuration that determine the metrics of the untouched base."""


def estimate_command(overrides: Sequence[str], cards: str, largest: bool, format: str, output: Path | None) -> int:
    """Estimates the cells that ``multirun`` would measure; returns the exit status.

    Raises:
        UsageError: an option has no such value, an override is wrong, or no cell can be estimated.
    """
    check_output(format, FORMATS, output)
    request = Request(_bytes(cards), largest)
    from bench.config.compose import compose_multirun

    sweeps = compose_multirun(overrides)
    place = console(stderr=format != "text")
    for note in dict.fromkeys(note for sweep in sweeps for note in sweep.notes):
        place.print(f"note: {note}", markup=False)
    progress = Progress(place)
    runner = ProcessRunner(progress.beat)
    cells = check_cells([config for sweep in sweeps for config in sweep.cells], runner, progress, CHECK)
    estimates = _estimate_all(cells, runner, request, min(sweep.time_limit for sweep in sweeps), progress)
    if not any(estimate.status is Status.OK for estimate in estimates):
        raise UsageError(f"{estimates[0].cell.id}: {estimates[0].reason}")
    from bench.estimate.report import estimate_report

    publish(estimate_report(estimates), format, output)
    failed = [estimate for estimate in estimates if estimate.status not in (Status.OK, Status.SKIPPED)]
    return VERDICT if failed else OK


def against_command(paths: Sequence[Path], overrides: Sequence[str], format: str, output: Path | None) -> int:
    """Estimates recorded cells and compares that with what was measured; status 1 if they differ by too much.

    Raises:
        UsageError: there is no such record, or an option has no such value.
    """
    check_output(format, FORMATS, output)
    if overrides:
        raise UsageError(f"--against estimates recorded cells with their own settings: leave out {overrides[0]}")
    records = [record for record in read_paths(paths) if record.status is Status.OK]
    if not records:
        raise UsageError(f"{', '.join(map(str, paths))}: none of these records is ok")
    progress = Progress(console(stderr=format != "text"))
    runner, request = ProcessRunner(progress.beat), Request(control=False, serving=False)
    estimates = [_estimate(CheckedCell(r.cell, None), runner, request, LIMIT_SECONDS, progress) for r in records]
    pairs = zip(estimates, records, strict=True)
    comparisons = [one for estimate, record in pairs for one in compare(estimate, record)]
    if not comparisons:
        raise UsageError(f"none of these cells can be estimated: {estimates[0].reason}")
    from bench.estimate.report import comparison_report

    publish(comparison_report(comparisons, estimates), format, output)
    return VERDICT if any(one.beyond for one in comparisons) else OK


def _estimate_all(
    cells: Sequence[CheckedCell], runner: ProcessRunner, request: Request, limit: float, progress: Progress
) -> list[Estimate]:
    """One child for each cell. The untouched base is estimated once for all cells that share it."""
    bases: dict[str, tuple[Measurement, ...]] = {}
    found = []
    for item in cells:
        key = json.dumps([item.cell.config.get(part) for part in SHARED], sort_keys=True)
        asked = dataclasses.replace(request, control=key not in bases)
        estimate = _estimate(item, runner, asked, limit, progress)
        if estimate.status is Status.OK:
            own = tuple(one for one in estimate.measurements if one.state != CONTROL)
            bases.setdefault(key, tuple(one for one in estimate.measurements if one.state == CONTROL))
            estimate = dataclasses.replace(estimate, measurements=(*bases[key], *own))
        found.append(estimate)
    return found


def _estimate(item: CheckedCell, runner: ProcessRunner, request: Request, limit: float, progress: Progress) -> Estimate:
    if item.skip is not None:
        return Estimate(item.cell, Status.SKIPPED, item.skip)
    started = time.monotonic()
    with progress.task(f"estimating {item.cell.id}"):
        outcome = runner.call(ESTIMATE, item.cell.config, request, limit_seconds=limit, listen=progress.phase)
    seconds = time.monotonic() - started
    if outcome.status is not Status.OK:
        return Estimate(item.cell, outcome.status, outcome.reason, seconds=seconds)
    found: EstimateResults = outcome.value
    results = found.results
    measured, missing = tuple(results.measurements), tuple(results.missing)
    return Estimate(item.cell, Status.OK, None, measured, missing, tuple(found.fits), seconds)


def _bytes(cards: str) -> tuple[int, ...]:
    """Bytes of the cards in a list of GiB."""
    try:
        sizes = [float(size) for size in cards.split(",")]
    except ValueError:
        sizes = [0.0]
    if not all(0 < size < LARGEST_CARD_GIB for size in sizes):
        raise UsageError(f"--cards {cards}: give the GiB of each card, such as 24,80")
    return tuple(int(size * GIB) for size in dict.fromkeys(sizes))
