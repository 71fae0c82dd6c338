"""One cell, from its configuration to its record: the children it needs, in order."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from bench.findings import Findings
from bench.launch import Launcher, Outcome
from bench.machine import commit, machine, versions
from bench.records import Cell, Pairs, Record, Status

Listen = Callable[[str], object]


class Measure(Protocol):
    """Turns a cell into its record; `measure_cell` does, and a fake one does in tests."""

    def __call__(self, cell: Cell, study: str, listen: Listen) -> Record:
        """Measures; whatever goes wrong with the cell is in the record."""


@dataclass(frozen=True)
class Children:
    """Measures cells in child processes."""

    launcher: Launcher
    limit_seconds: float

    def __call__(self, cell: Cell, study: str, listen: Listen) -> Record:
        """One child for the figures, then one for each latency replicate."""
        started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        pairs: list[Pairs] = []
        with tempfile.TemporaryDirectory(prefix="peft-verdict-") as staging:
            outcome = self._call("bench.worker:measure_figures", cell.config, staging, listen=listen)
            findings = outcome.value if outcome.status is Status.OK else Findings()
            for process in range(int(cell.config["precision"]["processes"]) if outcome.status is Status.OK else 0):

                def tell(phase: str, process: int = process) -> None:
                    listen(f"latency, process {process + 1}: {phase}")

                arguments = (cell.config, staging, findings.states, process)
                start = cell.config["precision"]["start"]
                outcome = self._call("bench.worker:measure_pairs", *arguments, listen=tell, start=start)
                if outcome.status is not Status.OK:
                    break
                pairs.extend(outcome.value)
        return Record(
            cell_id=cell.id,
            study=study,
            status=outcome.status,
            reason=outcome.reason,
            cell=cell,
            readings=tuple(findings.readings),
            missing=tuple(findings.missing),
            pairs=tuple(pairs),
            notes=tuple(findings.notes),
            facts={**findings.facts, **({"detail": outcome.detail} if outcome.detail else {})},
            machine=machine(),
            versions=versions(),
            commit=commit(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
        )

    def _call(self, function: str, *arguments: Any, listen: Listen, start: str = "forkserver") -> Outcome:
        limit = self.limit_seconds
        return self.launcher.call(function, *arguments, limit_seconds=limit, listen=listen, start=start)


def skipped(cell: Cell, study: str, reason: str) -> Record:
    """The record of a cell that can't be run."""
    return Record(
        cell_id=cell.id,
        study=study,
        status=Status.SKIPPED,
        reason=reason,
        cell=cell,
        machine=machine(),
        versions=versions(),
        commit=commit(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
