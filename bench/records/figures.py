"""The specification of a figure: what a column of the table means. Free of torch, for tables are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """Base units: what is stored. Printing scales."""

    PARAMETERS = "parameters"
    BYTES = "bytes"
    SECONDS = "seconds"
    TOKENS_PER_SECOND = "tokens/s"
    TOKENS = "tokens"
    COUNT = "count"
    FLOPS = "FLOPs"
    JOULES = "joules"
    RATIO = "ratio"
    NATS = "nats"
    BITS = "bits"
    FRACTION = "fraction"


WHOLE = frozenset({Unit.PARAMETERS, Unit.BYTES, Unit.TOKENS, Unit.COUNT, Unit.FLOPS})
"""Units whose figures are integers."""


class Better(StrEnum):
    """Which way is better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Scope(StrEnum):
    """What a figure is of, and so in which rows it stands."""

    STATE = "state"
    """Of one state alone."""
    TRAINING = "training"
    """Of the training, which the states of a method share: they were trained once."""
    PROGRESS = "progress"
    """Of the model before and after training: two columns, ``NAME_before`` and ``NAME_after``."""


@dataclass(frozen=True)
class Figure:
    """One figure that a probe measures."""

    name: str
    """Column name in CSV and Parquet."""
    label: str
    """Header in printed tables."""
    unit: Unit
    better: Better
    meaning: str
    """One sentence."""
    scope: Scope = Scope.STATE
    steady: bool = True
    """False of a count that the same run may give otherwise: what an allocator rounded, how much was measured."""

    @property
    def whole(self) -> bool:
        """Whether it must be equal from run to run: an integer, and steady."""
        return self.unit in WHOLE and self.steady

    @property
    def exact(self) -> bool:
        """Whether a statement can rest on it without an interval: no clock's reading, nor how training went."""
        return self.steady and self.scope is not Scope.PROGRESS and (self.whole or self.unit is Unit.FRACTION)
