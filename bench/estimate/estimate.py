"""What a forecast says of a cell: the figures of a run that never took place. Free of torch, for the parent is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.records.cell import Cell
from bench.records.record import UNMERGED, Missing, Reading, Record, Status

GIB = 1024**3
RESERVE_BYTES = 3 * GIB // 2
"""What a step can't have of a card. The CUDA context takes about half a GiB and the driver's own share up to as much;
the rest is for workspaces of cuBLAS and attention, which the tracker does not see, and for holes between blocks."""


@dataclass(frozen=True)
class Fit:
    """Whether a training step fits a card, and how far it could grow."""

    card_bytes: int
    fits: bool
    largest_batch: int | None = None
    """At the configured length; 0 where not even one sequence fits, None where it was not asked for."""
    longest: int | None = None
    """Tokens of one sequence alone; 0 where not even the shortest fits, None where it was not asked for."""


@dataclass(frozen=True)
class Request:
    """What a forecast is asked for."""

    cards: tuple[int, ...] = ()
    """Bytes of each card."""
    largest: bool = False
    """Also the largest batch and length, which takes several steps a card."""
    control: bool = True
    """Also the untouched base, which cells of one model share."""
    serving: bool = True
    """Also what the method costs at inference."""


@dataclass
class Prediction:
    """What a child found."""

    readings: list[Reading] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)


@dataclass(frozen=True)
class Forecast:
    """A cell, foretold."""

    cell: Cell
    status: Status
    reason: str | None
    """Why the status is not ok; None where it is."""
    readings: tuple[Reading, ...] = ()
    missing: tuple[Missing, ...] = ()
    fits: tuple[Fit, ...] = ()
    seconds: float = 0.0

    def value(self, figure: str, state: str, point: tuple[int, int] | None = None) -> float | None:
        """A figure, None where it was not foretold."""
        return value_of(self.readings, figure, state, point)


TOLERANCE = 0.01
"""How far a forecast of the peak may be from the measured one, as a fraction."""
COMPARED = {
    "train_peak_bytes": "train_peak_bytes",
    "train_weights_bytes": "train_weights_bytes",
    "train_gradients_bytes": "train_gradients_bytes",
    "train_optimizer_state_bytes": "train_optimizer_state_bytes",
    "train_other_bytes": "train_other_bytes",
    "train_cuda_allocated_bytes": "train_rounded_bytes",
}
"""Measured figure, and the forecast that it is compared with."""


@dataclass(frozen=True)
class Comparison:
    """A figure of a recorded cell, foretold and measured."""

    cell_id: str
    method: str
    size: int | None
    model: str
    figure: str
    predicted: float
    measured: float

    @property
    def difference(self) -> float:
        """As a fraction of what was measured."""
        if self.predicted == self.measured:
            return 0.0
        return self.predicted / self.measured - 1 if self.measured else math.inf

    @property
    def beyond(self) -> bool:
        """Whether the forecast is wrong: its peak, of the same count, is too far off."""
        return self.figure == "train_peak_bytes" and abs(self.difference) > TOLERANCE


def compare(forecast: Forecast, record: Record) -> list[Comparison]:
    """What was both foretold and measured of one cell."""
    found = []
    for measured, foretold in COMPARED.items():
        there, here = value_of(record.readings, measured, UNMERGED), forecast.value(foretold, UNMERGED)
        if there is not None and here is not None:
            cell = record.cell
            found.append(Comparison(cell.id, cell.name, cell.size, cell.model, measured, here, there))
    return found


def value_of(
    readings: Sequence[Reading], figure: str, state: str, point: tuple[int, int] | None = None
) -> float | None:
    """The figure of a state, at a workload point (batch size, prompt length) where it depends on it."""
    batch, length = (None, None) if point is None else point
    wanted = (figure, state, batch, length)
    return next((r.value for r in readings if (r.figure, r.state, r.batch_size, r.prompt_length) == wanted), None)
