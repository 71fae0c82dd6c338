"""What a claim is: a statement about methods and the evidence that decides it. One YAML file each; data, never code.

A claim holds if all of its evidence does. A piece of evidence compares one quantity of the cells that the claim is
about with the untouched base (``control``), with other cells, with a number, or with a formula: a sum of products of
whole numbers and names, written as a list of lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from bench.records.cell import OURS, STRICT
from bench.records.record import UNMERGED

TRAIN_RATIO = "train_ratio"
"""Training tokens per second over those of the training reference, ``workload.train_reference``."""
TIMED = ("prefill_ratio", "decode_ratio", TRAIN_RATIO)
"""Ratios of what was timed in turn: one number a process, hence an interval. Those of seconds are to the control."""
EXTRA = ("prefill_extra_seconds", "decode_extra_seconds")
"""Seconds a step beyond the control's. Growth is read from these, because a ratio hides it where the base grows too."""


class Relation(StrEnum):
    """How a quantity must compare."""

    greater = "greater"
    less = "less"
    equal = "equal"
    """Exactly equal: for deterministic metrics."""
    same = "same"
    """Within the margin either way (two one-sided tests): for ratios."""
    not_greater = "not_greater"
    """Greater by less than the margin: for ratios."""
    grows = "grows"
    """A slope above zero over `Evidence.over`: for extra seconds."""


@dataclass(frozen=True)
class Selector:
    """Which cells are meant."""

    __pydantic_config__: ClassVar = STRICT

    method: tuple[str, ...]
    state: str = UNMERGED
    implementation: str = OURS
    """Whose code: ``peft`` for methods that the library peft runs, whose ``method`` is the type in small letters."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values that dotted keys of the configuration must have."""


@dataclass(frozen=True)
class Evidence:
    """One thing that must hold."""

    __pydantic_config__: ClassVar = STRICT

    quantity: str
    relation: Relation
    compared_to: str | float | Selector | tuple[tuple[int | str, ...], ...] | None = None
    """``control``, a number, other cells, or a formula. A ratio without it is compared with the control."""
    equal_size: bool = False
    """Whether other cells must have the same size."""
    times: float = 1.0
    """A factor on what the quantity is compared with."""
    margin: float = 0.03
    """The smallest difference of a ratio that matters, as a fraction."""
    over: str | None = None
    """The axis over which the quantity grows."""
    state: str | None = None
    """The state, if it is not the claim's."""

    @property
    def phase(self) -> str:
        """``decode`` of ``decode_ratio``."""
        return self.quantity.partition("_")[0]

    @property
    def timed(self) -> bool:
        """Whether it depends on a clock."""
        return self.quantity in (*TIMED, *EXTRA)


class Expected(StrEnum):
    """The verdict that a claim's authors expect."""

    supported = "supported"
    refuted = "refuted"


@dataclass(frozen=True)
class Claim:
    """A statement and what decides it."""

    __pydantic_config__: ClassVar = STRICT

    statement: str
    source: str
    about: Selector | None = None
    evidence: tuple[Evidence, ...] = ()
    reproduce: tuple[str, ...] = ()
    """Overrides of a sweep that measures the cells."""
    pool_over: tuple[str, ...] = ()
    """Dotted keys in which the cells may differ and still be judged together."""
    blocked_by: str | None = None
    """Why it can't be decided yet."""
    expected: Expected | None = None
    """Another verdict ends the command with status 1."""
    id: str = ""
    """The file's name."""
