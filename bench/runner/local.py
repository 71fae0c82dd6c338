"""The engine of this machine: it measures a cell in child processes, one after the other."""

from __future__ import annotations

import datetime
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.config.schema import REFERENCE_KEY
from bench.records.cell import Cell
from bench.records.machine import commit, machine, versions
from bench.records.record import REFERENCE, TRAIN, UNMERGED, Missing, Record, Status
from bench.records.results import LatencySamples, ProbeResults
from bench.runner.engine import Listen, implementations
from bench.runner.process import Outcome, ProcessRunner
from bench.runner.stopping import should_stop

MEASURE_METRICS = "bench.worker.probes:measure_metrics"
MEASURE_PAIRS = "bench.worker.latency:measure_pairs"
TRAIN_PEAK = "train_peak_bytes"


@dataclass(frozen=True)
class LocalEngine:
    """Measures cells in child processes of this one."""

    runner: ProcessRunner
    limit_seconds: float
    """What one child may take."""

    def measure(self, cell: Cell, study: str, listen: Listen) -> Record:
        """One child for all metrics but latency, then one for each latency replicate."""
        started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
        samples = LatencySamples()
        with tempfile.TemporaryDirectory(prefix="peft-verdict-") as staging:
            outcome = self._call(MEASURE_METRICS, cell.config, staging, listen=listen)
            # of a cell that failed, what was measured before; one that is skipped was not to be measured
            results = ProbeResults() if outcome.status is Status.SKIPPED else outcome.value or ProbeResults()
            if outcome.status is Status.OK and cell.reference is not None:
                outcome = self._measure_reference(cell, staging, results, listen)
            if outcome.status is Status.OK:
                peak = max((one.value for one in results.measurements if one.metric == TRAIN_PEAK), default=0)
                arguments = (cell.config, staging, results.states, peak)
                outcome = self.replicate(MEASURE_PAIRS, cell.config, arguments, samples, listen)
        lacking, warnings = lacking_training(samples)
        return Record(
            cell_id=cell.id,
            study=study,
            status=outcome.status,
            reason=outcome.reason,
            cell=cell,
            measurements=tuple(results.measurements),
            missing=(*results.missing, *lacking),
            pairs=tuple(samples.pairs),
            warnings=(*results.warnings, *samples.warnings, *warnings),
            metadata={
                **results.metadata,
                **({"card": samples.cards} if samples.cards else {}),
                **({"detail": outcome.detail} if outcome.detail else {}),
            },
            machine=machine(),
            versions=versions(*implementations(cell), *results.metadata.get("packages", ())),
            commit=commit(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 3),
        )

    def replicate(
        self,
        function: str,
        config: Mapping[str, Any],
        arguments: Sequence[Any],
        samples: LatencySamples,
        listen: Listen,
    ) -> Outcome:
        """Starts child after child, each of which adds its samples, until the stopping rule holds.

        Returns how the last child ended.
        """
        outcome = Outcome(Status.OK)
        for process in itertools.count():
            if should_stop(process, samples.pairs, config["precision"]):
                break

            def tell(phase: str, process: int = process) -> None:
                listen(f"latency, process {process + 1}: {phase}")

            outcome = self._call(function, *arguments, process, listen=tell, start=config["precision"]["start"])
            if outcome.status is not Status.OK:
                break
            samples.add(outcome.value)
        return outcome

    def _measure_reference(self, cell: Cell, staging: str, results: ProbeResults, listen: Listen) -> Outcome:
        """Measures the reference in its own child and adds its metrics to the cell's as those of one more state."""
        assert cell.reference is not None
        config = {**cell.config, "method": cell.config[REFERENCE_KEY]}
        folder = Path(staging) / REFERENCE
        folder.mkdir()
        outcome = self._call(MEASURE_METRICS, config, str(folder), listen=listen)
        if outcome.status is not Status.OK:
            return replace(outcome, reason=f"{cell.reference.name}: {outcome.reason}")
        found: ProbeResults = outcome.value
        results.measurements += [replace(one, state=REFERENCE) for one in found.measurements if one.state == UNMERGED]
        results.missing += [replace(one, state=REFERENCE) for one in found.missing if one.state == UNMERGED]
        results.warnings += [f"the reference: {warning}" for warning in found.warnings]
        results.metadata[REFERENCE] = {"training": found.metadata["training"]}
        results.states.append(REFERENCE)
        return outcome

    def _call(self, function: str, *arguments: Any, listen: Listen, start: str = "forkserver") -> Outcome:
        return self.runner.call(function, *arguments, limit_seconds=self.limit_seconds, listen=listen, start=start)


def lacking_training(samples: LatencySamples) -> tuple[list[Missing], list[str]]:
    """What no process measured, and warnings of what only some did: each decides by the memory that is free then."""
    found = [pairs for pairs in samples.pairs if pairs.phase == TRAIN]
    if not found:
        return samples.missing, []
    whole, timed = ({pairs.process for pairs in some} for some in (samples.pairs, found))
    return [], [f"{one.metric} is of {len(timed)} of {len(whole)} processes: {one.reason}" for one in samples.missing]
