"""The verb ``estimate``: from cells to forecasts to tables, each forecast in a child, and forecasts beside records."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bench.commands.output import OK, VERDICT, _check_format, _publish, _status
from bench.config.compose import compose_multirun
from bench.errors import UsageError
from bench.estimate.estimate import GIB, Forecast, Prediction, Request, compare
from bench.estimate.report import FORMATS, comparison_sheet, forecast_sheets, rows_of
from bench.records.record import CONTROL, Reading, Status
from bench.records.results import Resolved
from bench.records.store import read_paths
from bench.runner.process import Launcher
from bench.runner.sweep import resolve_cells

LARGEST_CARD_GIB = 1e6
"""More is a slip of the finger."""
LIMIT_SECONDS = 1800.0
"""For the forecast of a record; that of a cell has the sweep's ``time_limit``."""
ELSEWHERE = "bench.worker.check:resolve_elsewhere"
SHARED = ("model", "workload", "device", "runtime")
"""Parts of a configuration on which the figures of the untouched base depend."""


def estimate_command(overrides: Sequence[str], cards: str, largest: bool, format: str, output: Path | None) -> int:
    """Foretells the cells that ``multirun`` would measure; returns the exit status.

    Raises:
        UsageError: an option has no such value, or no cell can be foretold.
    """
    _check_format(format, FORMATS, output)
    request = Request(_bytes(cards), largest)
    sweeps = compose_multirun(overrides)
    console = Console(highlight=False, stderr=format != "text")
    for note in dict.fromkeys(note for sweep in sweeps for note in sweep.notes):
        console.print(f"note: {note}", markup=False)
    launcher = Launcher()
    configs = [config for sweep in sweeps for config in sweep.cells]
    with _status(console) as tell:
        resolved = resolve_cells(configs, launcher, tell, ELSEWHERE)
        forecasts = _foretell(resolved, launcher, request, min(sweep.time_limit for sweep in sweeps), tell)
    if not any(forecast.status is Status.OK for forecast in forecasts):
        raise UsageError(f"{forecasts[0].cell.id}: {forecasts[0].reason}")
    _publish(forecast_sheets(forecasts), rows_of(forecasts), format, output)
    failed = [forecast for forecast in forecasts if forecast.status not in (Status.OK, Status.SKIPPED)]
    return VERDICT if failed else OK


def against_command(paths: Sequence[Path], overrides: Sequence[str], format: str, output: Path | None) -> int:
    """Foretells recorded cells, and prints that beside what was measured; status 1 where they differ by too much.

    Raises:
        UsageError: there is no such record, or an option has no such value.
    """
    _check_format(format, FORMATS, output)
    if overrides:
        raise UsageError(f"--against foretells what was recorded, with its own settings: leave out {overrides[0]}")
    records = [record for record in read_paths(paths) if record.status is Status.OK]
    if not records:
        raise UsageError(f"{', '.join(map(str, paths))}: no cell of these records was measured to its end")
    console = Console(highlight=False, stderr=format != "text")
    launcher = Launcher()
    request = Request(control=False, serving=False)
    with _status(console) as tell:
        forecasts = [_forecast(Resolved(r.cell, None), launcher, request, LIMIT_SECONDS, tell) for r in records]
    pairs = zip(forecasts, records, strict=True)
    comparisons = [row for forecast, record in pairs for row in compare(forecast, record)]
    if not comparisons:
        raise UsageError(f"none of these cells can be foretold: {forecasts[0].reason}")
    rows = [dataclasses.asdict(row) for row in comparisons]
    _publish([comparison_sheet(comparisons, forecasts)], rows, format, output)
    return VERDICT if any(row.beyond for row in comparisons) else OK


def _foretell(
    resolved: Sequence[Resolved], launcher: Launcher, request: Request, limit: float, tell: Callable[[str], object]
) -> list[Forecast]:
    """One child a cell; what the untouched base does is worked out once for all cells that share it."""
    bases: dict[str, tuple[Reading, ...]] = {}
    found = []
    for item in resolved:
        key = json.dumps([item.cell.config.get(part) for part in SHARED], sort_keys=True)
        asked = dataclasses.replace(request, control=key not in bases)
        forecast = _forecast(item, launcher, asked, limit, tell)
        if forecast.status is Status.OK:
            control = tuple(reading for reading in forecast.readings if reading.state == CONTROL)
            bases.setdefault(key, control)
            forecast = dataclasses.replace(
                forecast, readings=(*bases[key], *(r for r in forecast.readings if r.state != CONTROL))
            )
        found.append(forecast)
    return found


def _forecast(
    item: Resolved, launcher: Launcher, request: Request, limit: float, tell: Callable[[str], object]
) -> Forecast:
    if item.skip is not None:
        return Forecast(item.cell, Status.SKIPPED, item.skip)
    started = time.monotonic()
    outcome = launcher.call(
        "bench.worker.estimate:forecast",
        item.cell.config,
        request,
        limit_seconds=limit,
        listen=lambda phase: tell(f"{item.cell.id}: {phase}"),
    )
    seconds = time.monotonic() - started
    if outcome.status is not Status.OK:
        return Forecast(item.cell, outcome.status, outcome.reason, seconds=seconds)
    found: Prediction = outcome.value
    return Forecast(
        item.cell,
        Status.OK,
        None,
        tuple(found.readings),
        tuple(found.missing),
        tuple(found.fits),
        seconds,
    )


def _bytes(cards: str) -> tuple[int, ...]:
    """Bytes of the cards in a list of GiB."""
    try:
        sizes = [float(size) for size in cards.split(",")]
    except ValueError:
        sizes = [0.0]
    if not all(0 < size < LARGEST_CARD_GIB for size in sizes):
        raise UsageError(f"--cards {cards}: give the GiB of each card, such as 24,80")
    return tuple(int(size * GIB) for size in dict.fromkeys(sizes))
