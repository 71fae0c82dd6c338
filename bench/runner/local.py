"""One cell, from its configuration to its record: the children it needs, in order."""

from __future__ import annotations

import datetime
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.config.schema import RIVAL_KEY
from bench.records.cell import Cell
from bench.records.machine import commit, machine, versions
from bench.records.record import RIVAL, UNMERGED, Record, Status
from bench.records.results import Findings, Timed
from bench.runner.engine import Listen, implementations
from bench.runner.process import Launcher, Outcome
from bench.runner.stopping import enough


@dataclass(frozen=True)
class Children:
    """Measures cells in child processes."""

    launcher: Launcher
    limit_seconds: float

    def __call__(self, cell: Cell, study: str, listen: Listen) -> Record:
        """One child for the figures, then one for each latency replicate."""
        started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        timed = Timed()
        with tempfile.TemporaryDirectory(prefix="peft-verdict-") as staging:
            outcome = self._call("bench.worker.figures:measure_figures", cell.config, staging, listen=listen)
            findings = outcome.value if outcome.status is Status.OK else Findings()
            if outcome.status is Status.OK and cell.rival is not None:
                outcome = self._rival(cell, staging, findings, listen)
            if outcome.status is Status.OK:
                arguments = (cell.config, staging, findings.states)
                outcome = self.replicate("bench.worker.latency:measure_pairs", cell.config, arguments, timed, listen)
        return Record(
            cell_id=cell.id,
            study=study,
            status=outcome.status,
            reason=outcome.reason,
            cell=cell,
            readings=tuple(findings.readings),
            missing=tuple(findings.missing),
            pairs=tuple(timed.pairs),
            notes=(*findings.notes, *timed.notes),
            facts={
                **findings.facts,
                **({"card": timed.cards} if timed.cards else {}),
                **({"detail": outcome.detail} if outcome.detail else {}),
            },
            machine={**machine(), **findings.machine},
            versions=versions(*implementations(cell)),
            commit=commit(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
        )

    def replicate(
        self,
        function: str,
        config: Mapping[str, Any],
        arguments: Sequence[Any],
        timed: Timed,
        listen: Listen,
    ) -> Outcome:
        """Child after child adds what it found, until there are enough of them; returns how the last one ended."""
        outcome = Outcome(Status.OK)
        for process in itertools.count():
            if enough(process, timed.pairs, config["precision"]):
                return outcome

            def tell(phase: str, process: int = process) -> None:
                listen(f"latency, process {process + 1}: {phase}")

            outcome = self._call(function, *arguments, process, listen=tell, start=config["precision"]["start"])
            if outcome.status is not Status.OK:
                return outcome
            timed.add(outcome.value)
        raise AssertionError("the count has no end")

    def _rival(self, cell: Cell, staging: str, findings: Findings, listen: Listen) -> Outcome:
        """The rival's figures, from a child of its own; they join the cell's as those of one more state."""
        config = {**cell.config, "method": cell.config[RIVAL_KEY]}
        folder = Path(staging) / RIVAL
        folder.mkdir()
        outcome = self._call("bench.worker.figures:measure_figures", config, str(folder), listen=listen)
        if outcome.status is not Status.OK:
            assert cell.rival is not None
            return replace(outcome, reason=f"{cell.rival.name}: {outcome.reason}")
        for found in outcome.value.readings:
            if found.state == UNMERGED:
                findings.readings.append(replace(found, state=RIVAL))
        for absent in outcome.value.missing:
            if absent.state == UNMERGED:
                findings.missing.append(replace(absent, state=RIVAL))
        findings.notes += [f"the rival: {note}" for note in outcome.value.notes]
        findings.facts["rival"] = {"training": outcome.value.facts["training"]}
        findings.states.append(RIVAL)
        return outcome

    def _call(self, function: str, *arguments: Any, listen: Listen, start: str = "forkserver") -> Outcome:
        limit = self.limit_seconds
        return self.launcher.call(function, *arguments, limit_seconds=limit, listen=listen, start=start)
