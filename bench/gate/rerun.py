"""The regression gate: it measures the cells of a baseline again and compares each metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UsageError
from bench.gate.baseline import Baseline
from bench.gate.compare import MetricCheck, check_cell, partners
from bench.gate.rule import Verdict
from bench.records.record import Record
from bench.records.results import CheckedCell
from bench.records.store import Store
from bench.report.labels import titles
from bench.runner.engine import Engine
from bench.runner.progress import Progress
from bench.runner.sweep import run_sweep


def check_against(baseline: Baseline, records: Sequence[Record], threshold: float | None) -> list[MetricCheck]:
    """The verdicts on existing records: nothing is run, so nothing is repeated.

    A cell that was measured on several machines, or with several versions, has verdicts for each.
    """
    checks: list[MetricCheck] = []
    for cell in baseline.cells:
        found = partners(cell, records)
        if not found:
            checks += check_cell(cell, None, threshold)
        for record, name in zip(found, titles([cell.cell_id] * len(found), [[one] for one in found]), strict=True):
            checks += [dataclasses.replace(one, cell_id=name) for one in check_cell(cell, record, threshold)]
    return checks


def check_again(
    baseline: Baseline,
    cells: Sequence[CheckedCell],
    store: Store,
    engine: Engine,
    threshold: float | None,
    progress: Progress,
) -> list[MetricCheck]:
    """Runs the cells, and once more those whose latency regressed; ``store`` keeps the records.

    Raises:
        UsageError: two cells of the baseline have become one.
    """
    if len(cells) != len(baseline.cells):
        raise UsageError(f"baseline {baseline.name}: some of its cells are the same cell now; save it again")
    first = _run(cells, store, engine, progress)
    pairs = list(zip(baseline.cells, cells, strict=True))
    slower = [item for before, item in pairs if _slower(check_cell(before, first[item.cell.id], threshold))]
    if slower:
        progress.console.print(f"slower: {', '.join(item.cell.id for item in slower)}; measured once more to be sure")
    second = _run(slower, Store(store.folder / "repeat"), engine, progress) if slower else {}
    return [
        one
        for before, item in pairs
        for one in check_cell(before, first[item.cell.id], threshold, second.get(item.cell.id))
    ]


def _slower(checks: Sequence[MetricCheck]) -> bool:
    return any(one.timed and one.verdict is Verdict.REGRESSED for one in checks)


def _run(cells: Sequence[CheckedCell], store: Store, engine: Engine, progress: Progress) -> dict[str, Record]:
    store.open()
    summary = run_sweep(cells, "check", store, engine, progress, fresh=True)
    return {record.cell_id: record for record in summary.records}


def status_of(checks: Sequence[MetricCheck], strict: bool) -> int:
    """0 if all passed, 1 if something regressed, 3 if nothing did but something is unknown."""
    verdicts = {one.verdict for one in checks}
    if Verdict.REGRESSED in verdicts:
        return 1
    unknown = verdicts & {Verdict.AMBIGUOUS, Verdict.INCOMPARABLE}
    return (1 if strict else 3) if unknown or not checks else 0


def records_folder(results: Path, name: str) -> Path:
    """Where the records of a check are kept."""
    return results / "checks" / name
