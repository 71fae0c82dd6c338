"""What a claim is: a statement about methods and the evidence that decides it, one YAML file each. Data, never code.

A claim holds where all of its evidence does. A piece of evidence compares one quantity of the cells that the claim is
about with the untouched base (``control``), with other cells, or with a formula: a sum of products of whole numbers
and names, written as a list of lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from bench.records.cell import OURS, STRICT
from bench.records.record import UNMERGED

TIMED = ("prefill_ratio", "decode_ratio")
"""Ratios to the control: a number a process, hence an interval."""
EXTRA = ("prefill_extra_seconds", "decode_extra_seconds")
"""Seconds a step beyond the control's; what growth is read from, since a ratio hides it where the base grows too."""


class Relation(StrEnum):
    """How a quantity must stand to what it is compared with."""

    greater = "greater"
    less = "less"
    equal = "equal"
    """Exactly: for figures without noise."""
    same = "same"
    """Within the margin either way (two one-sided tests): for ratios."""
    not_greater = "not_greater"
    """Not more by as much as the margin: for ratios."""
    grows = "grows"
    """A slope above zero over `Evidence.over`: for extra seconds."""


@dataclass(frozen=True)
class Selector:
    """Cells."""

    __pydantic_config__: ClassVar = STRICT

    method: tuple[str, ...]
    state: str = UNMERGED
    implementation: str = OURS
    """Whose code; ``peft`` for what that library runs, where ``method`` is the type in small letters."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Values that dotted keys of the configuration must have."""


@dataclass(frozen=True)
class Evidence:
    """One thing that must hold."""

    __pydantic_config__: ClassVar = STRICT

    quantity: str
    relation: Relation
    than: str | float | Selector | tuple[tuple[int | str, ...], ...] | None = None
    """``control``, a number, other cells, or a formula. A ratio without it is compared with 1, which is the control."""
    equal_size: bool = False
    """Of other cells, only those of the same size."""
    times: float = 1.0
    """Factor on what it is compared with."""
    margin: float = 0.03
    """Of a ratio, the smallest difference that matters, as a fraction."""
    over: str | None = None
    """What it grows over."""
    state: str | None = None
    """Another state than the claim's."""

    @property
    def phase(self) -> str:
        """``decode`` of ``decode_ratio``."""
        return self.quantity.partition("_")[0]

    @property
    def timed(self) -> bool:
        """Whether it rests on a clock."""
        return self.quantity in (*TIMED, *EXTRA)


class Expected(StrEnum):
    """What the harness's authors think a claim will come out as."""

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
    settle: tuple[str, ...] = ()
    """Overrides of a sweep that has the cells."""
    across: tuple[str, ...] = ()
    """Dotted keys in which the cells may differ and still be judged as one."""
    later: str | None = None
    """Why it can't be decided yet."""
    expected: Expected | None = None
    """Another verdict ends the command with status 1."""
    id: str = ""
    """The file's name."""
