"""Statistics of paired samples. The unit is the process: its median log-ratio is one number (Kalibera & Jones 2013)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from bench.records import Pairs

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio of seconds with its confidence interval over processes."""

    estimate: float
    low: float | None
    """None with one process: there is nothing to take a spread from."""
    high: float | None
    processes: int


def log_ratio(pairs: Pairs) -> float:
    """Median over a process's pairs of log(arm / control)."""
    logs = [math.log(arm / control) for arm, control in zip(pairs.arm_seconds, pairs.control_seconds, strict=True)]
    return statistics.median(logs)


def ratio(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """Geometric mean over processes with Student's t interval on the logs.

    Raises:
        ValueError: there is no process.
    """
    if not log_ratios:
        raise ValueError("a ratio needs at least one process")
    center = statistics.fmean(log_ratios)
    if len(log_ratios) == 1:
        return Ratio(math.exp(center), None, None, 1)
    error = statistics.stdev(log_ratios) / math.sqrt(len(log_ratios))
    half = float(stats.t.ppf((1 + confidence) / 2, len(log_ratios) - 1)) * error
    return Ratio(math.exp(center), math.exp(center - half), math.exp(center + half), len(log_ratios))


def seconds(blocks: Sequence[Sequence[float]]) -> float:
    """Absolute seconds: the median over processes of the median of each."""
    return statistics.median(statistics.median(process) for process in blocks)
