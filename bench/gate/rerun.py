"""The regression gate: measures the cells of a baseline again and says what became of each figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.errors import UsageError
from bench.gate.baseline import Baseline
from bench.gate.compare import Checked, check_cell, partner
from bench.gate.rule import Verdict
from bench.records.record import Record
from bench.records.results import Resolved
from bench.records.store import Store
from bench.runner.engine import Measure
from bench.runner.progress import Progress
from bench.runner.sweep import run_sweep


def check_against(baseline: Baseline, records: Sequence[Record], threshold: float | None) -> list[Checked]:
    """The verdicts on records that are there already: nothing is run, so nothing is repeated."""
    return [one for kept in baseline.cells for one in check_cell(kept, partner(kept, records), threshold)]


def check_again(
    baseline: Baseline,
    cells: Sequence[Resolved],
    store: Store,
    measure: Measure,
    threshold: float | None,
    console: Console,
) -> list[Checked]:
    """Runs the cells, and those whose latency regressed once more; ``store`` keeps the records.

    Raises:
        UsageError: two cells of the baseline have become one.
    """
    if len(cells) != len(baseline.cells):
        raise UsageError(f"baseline {baseline.name}: some of its cells are one and the same by now; save it anew")
    first = _run(cells, store, measure, console)
    pairs = list(zip(baseline.cells, cells, strict=True))
    slower = [item for kept, item in pairs if _slower(check_cell(kept, first[item.cell.id], threshold))]
    if slower:
        console.print(f"slower: {', '.join(item.cell.id for item in slower)}; measured once more to be sure")
    second = _run(slower, Store(store.folder / "repeat"), measure, console) if slower else {}
    return [
        one
        for kept, item in pairs
        for one in check_cell(kept, first[item.cell.id], threshold, second.get(item.cell.id))
    ]


def _slower(checked: Sequence[Checked]) -> bool:
    return any(one.timed and one.verdict is Verdict.REGRESSED for one in checked)


def _run(cells: Sequence[Resolved], store: Store, measure: Measure, console: Console) -> dict[str, Record]:
    store.open()
    summary = run_sweep(cells, "check", store, measure, Progress(console), fresh=True)
    return {record.cell_id: record for record in summary.records}


def status_of(checked: Sequence[Checked], strict: bool) -> int:
    """0 where all passed, 1 where something regressed, 3 where nothing did and something is not known."""
    verdicts = {one.verdict for one in checked}
    if Verdict.REGRESSED in verdicts:
        return 1
    unknown = verdicts & {Verdict.AMBIGUOUS, Verdict.INCOMPARABLE}
    return (1 if strict else 3) if unknown or not checked else 0


def records_folder(results: Path, name: str) -> Path:
    """Where the records of a check are kept."""
    return results / "checks" / name
