"""What child processes return to the parent. Free of torch, because the parent is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.records.cell import Cell
from bench.records.record import Measurement, Missing, Pairs


@dataclass(frozen=True)
class CheckedCell:
    """A cell whose settings are sound; ``skip`` says why it can't be run all the same."""

    cell: Cell
    skip: str | None
    machine: Mapping[str, Any] = field(default_factory=dict)
    """What only a child sees of the machine: the accelerator. The record has it, however the cell ends."""


@dataclass
class ProbeResults:
    """What the first child of a cell measured."""

    measurements: list[Measurement] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    """States of the method that can be timed."""

    def add(self, found: Measurement | Missing) -> None:
        """Keeps what a probe yields."""
        if isinstance(found, Measurement):
            self.measurements.append(found)
        else:
            self.missing.append(found)

    def extend(self, other: ProbeResults) -> None:
        """Adds what was found of one more state."""
        self.measurements += other.measurements
        self.missing += other.missing
        self.warnings += other.warnings


@dataclass
class LatencySamples:
    """What latency replicates measured."""

    pairs: list[Pairs] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    """Snapshots of the graphics card, taken before timing began and after it ended."""
    missing: list[Missing] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: LatencySamples) -> None:
        """Adds the samples of one more replicate."""
        self.pairs += other.pairs
        self.cards += other.cards
        self.missing += [one for one in other.missing if one not in self.missing]
        self.warnings += [warning for warning in other.warnings if warning not in self.warnings]
