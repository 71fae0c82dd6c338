"""The estimate of a cell: metrics of a run that never took place. Free of torch, because the parent process is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bench.records.cell import Cell
from bench.records.record import UNMERGED, Measured, Measurement, Missing, Record, Status
from bench.records.results import ProbeResults

GIB = 1024**3
RESERVE_BYTES = 3 * GIB // 2
"""What a step can't use of a card. The CUDA context takes about half a GiB and the driver up to as much again; the rest
is for workspaces of cuBLAS and attention, which the tracker does not see, and for gaps between blocks."""
TOLERANCE = 0.01
"""How far an estimated peak may be from the measured one, as a fraction."""


@dataclass(frozen=True)
class Fit:
    """Whether a training step fits a card, and how far it could grow."""

    card_bytes: int
    fits: bool
    largest_batch: int | None = None
    """At the configured length; 0 if not even one sequence fits, None if not requested."""
    longest: int | None = None
    """Tokens of a single sequence; 0 if not even the shortest fits, None if not requested."""


@dataclass(frozen=True)
class Request:
    """What is to be estimated of a cell."""

    cards: tuple[int, ...] = ()
    """Bytes of each card."""
    largest: bool = False
    """Also the largest batch and length, which takes several steps for each card."""
    control: bool = True
    """Also the untouched base, which cells of one model share."""
    serving: bool = True
    """Also what the method costs at inference."""


@dataclass
class EstimateResults:
    """What a child process estimated."""

    results: ProbeResults = field(default_factory=ProbeResults)
    fits: list[Fit] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate(Measured):
    """A cell and its estimated metrics."""

    cell: Cell
    status: Status
    reason: str | None
    """Why the status is not ok; None if it is."""
    measurements: tuple[Measurement, ...] = ()
    missing: tuple[Missing, ...] = ()
    fits: tuple[Fit, ...] = ()
    seconds: float = 0.0


COMPARED = {
    "train_peak_bytes": "train_peak_bytes",
    "train_weights_bytes": "train_weights_bytes",
    "train_gradients_bytes": "train_gradients_bytes",
    "train_optimizer_state_bytes": "train_optimizer_state_bytes",
    "train_method_state_bytes": "train_method_state_bytes",
    "train_other_bytes": "train_other_bytes",
    "train_cuda_allocated_bytes": "train_rounded_bytes",
}
"""A measured metric, and the estimated one that it is compared with."""


@dataclass(frozen=True)
class Comparison:
    """One metric of a recorded cell, estimated and measured."""

    cell_id: str
    method: str
    size: int | None
    model: str
    metric: str
    estimated: float
    measured: float

    @property
    def difference(self) -> float:
        """As a fraction of the measured value."""
        if self.estimated == self.measured:
            return 0.0
        return self.estimated / self.measured - 1 if self.measured else math.inf

    @property
    def beyond(self) -> bool:
        """Whether the estimate is wrong: its peak is too far from the measured one."""
        return self.metric == "train_peak_bytes" and abs(self.difference) > TOLERANCE


def compare(estimate: Estimate, record: Record) -> list[Comparison]:
    """The metrics of one cell that were both estimated and measured."""
    found = []
    cell = record.cell
    for measured, estimated in COMPARED.items():
        there, here = record.value(measured, UNMERGED), estimate.value(estimated, UNMERGED)
        if there is not None and here is not None:
            found.append(Comparison(cell.id, cell.name, cell.size, cell.model, measured, here, there))
    return found
