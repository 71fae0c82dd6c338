"""What a cell leaves behind.

Standard library only: the parent process, the tables and whoever reads the JSON elsewhere need nothing more. All
metrics are in base units (seconds, bytes, tokens, parameters); only printing scales them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar

from bench.records.cell import STRICT, Cell

# 1: until November 2026.
# 2: the field's words for keys, metrics and settings (`bench.config.aliases`); what is missing of a whole state has no
#    metric, where it had "*"; two settings are booleans.
SCHEMA_VERSION = 2

CONTROL = "control"
UNMERGED = "unmerged"
MERGED = "merged"
REFERENCE = "reference"
AA = "aa"
"""The arms. All but the last are states that a table shows: the untouched base, the method beside the base weights and
merged into them, and the reference method in the same process. ``aa`` is a second control that is timed like an arm."""

TRAIN = "train"
"""The phase in which training steps of a cell's method are timed against those of its reference."""


Point = tuple[int, int]
"""Batch size and prompt length."""


class Status(StrEnum):
    """How a cell, or one state of it, ended."""

    OK = "ok"
    SKIPPED = "skipped"
    OOM = "oom"
    TIMEOUT = "timeout"
    FAILED = "failed"


@dataclass(frozen=True)
class Measurement:
    """One metric of one state, at one workload point where the metric depends on it."""

    __pydantic_config__: ClassVar = STRICT

    metric: str
    value: float | int
    state: str
    batch_size: int | None = None
    prompt_length: int | None = None
    """Tokens of the prompt."""

    @property
    def point(self) -> Point | None:
        """The workload point; None if the metric does not depend on it."""
        return None if self.batch_size is None or self.prompt_length is None else (self.batch_size, self.prompt_length)


@dataclass(frozen=True)
class Missing:
    """A metric that could not be had, and why. Never recorded as 0 or -1."""

    __pydantic_config__: ClassVar = STRICT

    metric: str | None
    """None for all metrics of the state."""
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
    """``unmerged``, ``merged``, ``reference`` or ``aa``."""
    batch_size: int
    prompt_length: int
    """Tokens of a sequence; in ``train``, as ``batch_size``, those of a training step."""
    steps_per_block: int
    discarded_steps: int
    """Steps thrown away before each block, at least: before half of the pairs, drawn at random, one more."""
    control_seconds: tuple[float, ...]
    """Seconds per step of the control's block of each pair; in ``train`` of the reference's."""
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

    @property
    def point(self) -> Point:
        """The workload point."""
        return self.batch_size, self.prompt_length

    @property
    def log_ratio(self) -> float:
        """Median over the pairs of log(arm / control): what most blocks show. One disturbed block does not move it."""
        blocks = zip(self.arm_seconds, self.control_seconds, strict=True)
        return statistics.median(math.log(arm / control) for arm, control in blocks)

    @property
    def mean_log_ratio(self) -> float:
        """Log of the ratio of mean seconds: what all blocks show, so that a cost of some steps counts in proportion."""
        return math.log(math.fsum(self.arm_seconds) / math.fsum(self.control_seconds))

    @property
    def extra_seconds(self) -> float:
        """Median over the pairs of arm - control, in seconds a step."""
        blocks = zip(self.arm_seconds, self.control_seconds, strict=True)
        return statistics.median(arm - control for arm, control in blocks)

    @property
    def mean_extra_seconds(self) -> float:
        """Mean over the pairs of arm - control, in seconds a step."""
        return statistics.fmean(self.arm_seconds) - statistics.fmean(self.control_seconds)


class Measured:
    """Measurements that can be asked for a value."""

    measurements: tuple[Measurement, ...]

    def value(self, metric: str, state: str, point: Point | None = None) -> float | int | None:
        """A metric of a state, at ``point`` where it depends on the workload point; None if it was not measured."""
        anywhere = self._values.get((metric, state, None))
        return self._values.get((metric, state, point)) if anywhere is None else anywhere

    @cached_property
    def _values(self) -> Mapping[tuple[str, str, Point | None], float | int]:
        found: dict[tuple[str, str, Point | None], float | int] = {}
        for one in self.measurements:
            found.setdefault((one.metric, one.state, one.point), one.value)
        return found


@dataclass(frozen=True)
class Record(Measured):
    """What a cell left behind."""

    __pydantic_config__: ClassVar = STRICT

    cell_id: str
    study: str
    status: Status
    reason: str | None
    """Why the status is not ok; None where it is."""
    cell: Cell
    measurements: tuple[Measurement, ...] = ()
    missing: tuple[Missing, ...] = ()
    pairs: tuple[Pairs, ...] = ()
    warnings: tuple[str, ...] = ()
    """What a reader of the metrics must know, such as a lossy merge. They need not name the cell."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What describes the run and is not a metric: model shape, data fingerprint, losses per step, final ranks."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    started: str = ""
    """UTC, ISO 8601."""
    seconds: float = 0.0
    """Wall time of the whole cell."""
    schema_version: int = SCHEMA_VERSION

    def states(self) -> list[str]:
        """The states that were measured, in the order of their first measurement."""
        return list(dict.fromkeys(one.state for one in self.measurements))

    def pairs_of(self, phase: str, arm: str | None = None, point: Point | None = None) -> list[Pairs]:
        """The raw samples of a phase by process: of one arm, at one workload point, or of all."""
        return [
            pairs
            for pairs in self.pairs
            if pairs.phase == phase and arm in (None, pairs.arm) and point in (None, pairs.point)
        ]

    def log_ratios(self, phase: str, arm: str, point: Point | None = None) -> list[float]:
        """The median log-ratio of an arm to the control: a number a process."""
        return [pairs.log_ratio for pairs in self.pairs_of(phase, arm, point)]

    def mean_log_ratios(self, phase: str, arm: str, point: Point | None = None) -> list[float]:
        """The log-ratio of an arm's mean seconds to the control's: a number a process."""
        return [pairs.mean_log_ratio for pairs in self.pairs_of(phase, arm, point)]

    @property
    def processor(self) -> str | None:
        """What computed: the accelerator where one was used, else the processor."""
        return self.machine.get("accelerator") or self.machine.get("processor")

    @property
    def shares_weights(self) -> bool:
        """Whether the arms shared one set of weights, because copies did not fit."""
        return any(pairs.shared_weights for pairs in self.pairs)
