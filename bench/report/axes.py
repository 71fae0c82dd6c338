"""Axes of a comparison: metrics of which more or less is better, and what a cell has on one."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import UsageError
from bench.probes.registry import metrics
from bench.records.metrics import Better, Metric, Scope
from bench.records.record import MERGED, UNMERGED
from bench.report.comparison import UNMARKED

AT = "@"
"""Between a metric and the state that it is taken of: ``decode_ratio@merged``."""
DEFAULT = (
    "trained_parameters",
    "checkpoint_bytes",
    "train_peak_bytes",
    "train_ratio",
    "decode_ratio",
    f"decode_ratio{AT}{MERGED}",
)


@dataclass(frozen=True)
class Axis:
    """A metric of one state. A method without a merged state stands there with the unmerged one, in which it serves."""

    metric: Metric
    state: str = UNMERGED

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.metric.name if self.state == UNMERGED else f"{self.metric.name}{AT}{self.state}"

    @property
    def column(self) -> str:
        """The column of `bench.report.frame` that has it."""
        return f"{self.metric.name}_after" if self.metric.scope is Scope.PROGRESS else self.metric.name


@dataclass(frozen=True)
class Value:
    """What a cell has on an axis, with the ends of its interval, which are the estimate itself if it has no noise."""

    estimate: float
    low: float
    high: float

    def turned(self, better: Better) -> Value:
        """The same where less is better."""
        return self if better is Better.LOWER else Value(-self.estimate, -self.high, -self.low)


def read_axes(names: Sequence[str]) -> list[Axis]:
    """Axes as they are typed.

    Raises:
        UsageError: one is no metric, is no better for being more or less, or is timed without an interval; or there are
            fewer than two.
    """
    axes = [_axis(name.strip()) for name in dict.fromkeys(names)]
    if len(axes) < 2:
        raise UsageError("--axes: a front needs two axes at least, separated by commas")
    return axes


def _axis(text: str) -> Axis:
    name, _, state = text.partition(AT)
    known = metrics()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f": choose from {', '.join(DEFAULT)} and other metrics"
        raise UsageError(f"--axes: unknown metric '{name}'{hint}")
    if state not in ("", UNMERGED, MERGED):
        raise UsageError(f"--axes {text}: a method is {UNMERGED} or {MERGED}")
    if known[name].better is Better.NEITHER:
        raise UsageError(f"--axes {text}: neither more nor less of it is better")
    if known[name].unit in UNMARKED:
        raise UsageError(f"--axes {text}: rows were timed minutes apart, and it has no interval: choose a ratio")
    return Axis(known[name], state or UNMERGED)
