"""The specification of a metric: what a column of the table means. Free of torch, because tables are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """Base units, in which values are stored. Printing scales them."""

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


INTEGER_UNITS = frozenset({Unit.PARAMETERS, Unit.BYTES, Unit.TOKENS, Unit.COUNT, Unit.FLOPS})


class Better(StrEnum):
    """Which direction is better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Scope(StrEnum):
    """What a metric describes, and so in which rows it stands."""

    STATE = "state"
    """One state."""
    TRAINING = "training"
    """The training, which all states of a method share."""
    PROGRESS = "progress"
    """The model before and after training: two columns, ``NAME_before`` and ``NAME_after``."""


@dataclass(frozen=True)
class Metric:
    """One metric that a probe measures."""

    name: str
    """Column name in CSV and Parquet."""
    label: str
    """Header in printed tables."""
    unit: Unit
    better: Better
    meaning: str
    """One sentence."""
    scope: Scope = Scope.STATE
    deterministic: bool = True
    """False of a count that may differ in the next run, such as what an allocator rounded."""

    @property
    def integer(self) -> bool:
        """Whether it is an integer that must be equal from run to run."""
        return self.unit in INTEGER_UNITS and self.deterministic

    @property
    def exact(self) -> bool:
        """Whether a claim can rest on it without an interval: it depends on no clock and not on how training went."""
        return self.deterministic and self.scope is not Scope.PROGRESS and (self.integer or self.unit is Unit.FRACTION)
