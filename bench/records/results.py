"""What children hand back to the parent. Free of torch, for the parent is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.records.cell import Cell
from bench.records.record import Missing, Pairs, Reading


@dataclass(frozen=True)
class Resolved:
    """A checked cell; ``skip`` says why it can't be run though its settings are sound."""

    cell: Cell
    skip: str | None


@dataclass
class Findings:
    """What the first child of a cell found."""

    readings: list[Reading] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    """What only a child sees of the machine: the accelerator."""
    states: list[str] = field(default_factory=list)
    """States of the method that can be timed."""


@dataclass
class Timed:
    """What replicates found."""

    pairs: list[Pairs] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=list)
    """The state of the graphics card, seen when timing began and when it had ended."""
    notes: list[str] = field(default_factory=list)

    def add(self, other: Timed) -> None:
        """Joins what one more replicate found."""
        self.pairs += other.pairs
        self.cards += other.cards
        self.notes += [note for note in other.notes if note not in self.notes]
