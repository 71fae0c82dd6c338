"""What a cell is and what it leaves behind.

Standard library only: the parent process, the tables and whoever reads the JSON elsewhere need nothing more. All
figures are in base units (seconds, bytes, tokens, parameters); scaling happens when a table is printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from bench.records.cell import STRICT, Cell

SCHEMA_VERSION = 1

CONTROL = "control"
UNMERGED = "unmerged"
MERGED = "merged"
RIVAL = "rival"
AA = "aa"
"""The arms. All but the last are states that a table shows: the untouched base, the method beside the base weights and
folded into them, and another method beside it in the same process. ``aa`` is a second control, timed like an arm."""

TRAIN = "train"
"""The phase in which training steps of a cell's method are timed against its rival's."""


class Status(StrEnum):
    """How a cell, or one state of it, ended."""

    OK = "ok"
    SKIPPED = "skipped"
    OOM = "oom"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True)
class Reading:
    """One figure of one state, at one workload point where the figure depends on it."""

    __pydantic_config__: ClassVar = STRICT

    figure: str
    value: float | int
    state: str
    batch_size: int | None = None
    prompt_length: int | None = None
    """Tokens of the prompt; with batch_size None as well, the figure does not depend on the workload point."""


@dataclass(frozen=True)
class Missing:
    """A figure that could not be had, and why. Never recorded as 0 or -1."""

    __pydantic_config__: ClassVar = STRICT

    figure: str
    """The figure's name, or ``*`` for a whole state."""
    state: str
    reason: str


@dataclass(frozen=True)
class Pairs:
    """Raw samples: adjacent timed blocks of the control and of one arm, in one process."""

    __pydantic_config__: ClassVar = STRICT

    process: int
    """Which replicate process (0, 1, ...)."""
    phase: str
    """``prefill``, ``decode`` or ``train``."""
    arm: str
    """``unmerged``, ``merged``, ``rival`` or ``aa``."""
    batch_size: int
    prompt_length: int
    """Tokens of a sequence; in ``train``, as ``batch_size``, those of a training step."""
    steps_per_block: int
    discarded_steps: int
    """Steps thrown away before each block."""
    control_seconds: tuple[float, ...]
    """Seconds per step of the control's block of each pair; in ``train`` of the rival's."""
    arm_seconds: tuple[float, ...]
    """Seconds per step of the arm's block of each pair."""
    control_first: tuple[bool, ...]
    """Which of the two came first in each pair."""
    shared_weights: bool
    """Whether the arms shared one set of weights, because copies did not fit."""

    def __post_init__(self) -> None:
        """Raises ValueError unless there are as many blocks of each, one at least, and each took time."""
        counts = {len(self.control_seconds), len(self.arm_seconds), len(self.control_first)}
        if counts == {0} or len(counts) > 1:
            raise ValueError(f"a process has pairs of blocks, not {sorted(counts)}")
        if not all(0 < seconds < math.inf for seconds in (*self.control_seconds, *self.arm_seconds)):
            raise ValueError("a block takes more than 0 seconds")


@dataclass(frozen=True)
class Record:
    """What a cell left behind."""

    __pydantic_config__: ClassVar = STRICT

    cell_id: str
    study: str
    status: Status
    reason: str | None
    """Why the status is not ok; None where it is."""
    cell: Cell
    readings: tuple[Reading, ...] = ()
    missing: tuple[Missing, ...] = ()
    pairs: tuple[Pairs, ...] = ()
    notes: tuple[str, ...] = ()
    """Warnings that a reader of the figures needs, such as a lossy merge; of the cell, which they need not name."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What describes the run and is not a figure: model shape, data fingerprint, losses per step, final ranks."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Wall time of the whole cell."""
    schema_version: int = SCHEMA_VERSION
