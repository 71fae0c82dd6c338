"""Statistics of paired samples. The unit is the process: its median log-ratio is one number (Kalibera & Jones 2013).

Values are logs of ratios unless a function says otherwise; a difference of logs is the log of a ratio of ratios.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.config.schema import check_margin

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over processes, or a ratio, with its confidence interval."""

    estimate: float
    low: float | None
    """None with one process: there is nothing to take a spread from."""
    high: float | None
    processes: int


@dataclass(frozen=True)
class Mean:
    """A mean, the standard error of it, and the degrees of freedom of that error. Infinite error: one process."""

    value: float
    error: float
    freedom: float

    def bound(self, confidence: float) -> float:
        """The one-sided upper confidence bound; the lower one with ``1 - confidence``."""
        if not math.isfinite(self.error):
            return math.copysign(math.inf, confidence - 0.5)
        return self.value + t_quantile(confidence, self.freedom) * self.error

    def p_above(self, limit: float) -> float:
        """p-value of the one-sided test that the true mean lies above ``limit``."""
        if not math.isfinite(self.error):
            return 1.0
        if self.error == 0.0:
            return 0.0 if self.value > limit else 1.0
        return t_cumulative((limit - self.value) / self.error, self.freedom)

    def p_below(self, limit: float) -> float:
        """p-value of the one-sided test that the true mean lies below ``limit``."""
        return Mean(-self.value, self.error, self.freedom).p_above(-limit)

    def p_within(self, margin: float) -> float:
        """p-value of the two one-sided tests that the true mean lies within ``margin`` of 0 (Schuirmann 1987)."""
        return max(self.p_above(-margin), self.p_below(margin))


def t_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t distribution."""
    from scipy import special  # takes longer to import than a wrong argument should take to be refused

    return float(special.stdtrit(freedom, probability))


def t_cumulative(value: float, freedom: float) -> float:
    """Student's t distribution function."""
    from scipy import special

    return float(special.stdtr(freedom, value))


def mean(values: Sequence[float]) -> Mean:
    """Mean over processes.

    Raises:
        ValueError: there is no process.
    """
    if not values:
        raise ValueError("a mean needs at least one process")
    center = statistics.fmean(values)
    if len(values) == 1:
        return Mean(center, math.inf, 1.0)
    return Mean(center, statistics.stdev(values) / math.sqrt(len(values)), len(values) - 1)


def difference(after: Sequence[float], before: Sequence[float]) -> Mean:
    """Mean of ``after`` over that of ``before``, which are of different processes (Welch 1947)."""
    a, b = mean(after), mean(before)
    value = a.value - b.value
    if not (math.isfinite(a.error) and math.isfinite(b.error)):
        return Mean(value, math.inf, 1.0)
    square = a.error**2 + b.error**2
    if square == 0.0:
        return Mean(value, 0.0, a.freedom + b.freedom)
    share = a.error**2 / square
    return Mean(value, math.sqrt(square), 1 / (share**2 / a.freedom + (1 - share) ** 2 / b.freedom))


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Mean over processes with Student's t interval, in the values' own unit.

    Raises:
        ValueError: there is no process.
    """
    return _interval(mean(values), len(values), confidence)


def _interval(found: Mean, processes: int, confidence: float) -> Interval:
    if not math.isfinite(found.error):
        return Interval(found.value, None, None, processes)
    half = (found.bound((1 + confidence) / 2) - found.value) if found.error else 0.0
    return Interval(found.value, found.value - half, found.value + half, processes)


def ratio(log_ratios: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Geometric mean over processes with Student's t interval on the logs.

    Raises:
        ValueError: there is no process.
    """
    return as_ratio(mean(log_ratios), len(log_ratios), confidence)


def as_ratio(log: Mean, processes: int, confidence: float = CONFIDENCE) -> Interval:
    """The ratio of which ``log`` is the log, with Student's t interval. ``processes``: that the mean is of."""
    found = _interval(log, processes, confidence)
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Interval(math.exp(found.estimate), low, high, processes)


def ratio_of_means(
    above: Sequence[float], below: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float, float] | None:
    """Mean of ``above`` over mean of ``below``, which are of the same processes, with its interval (Fieller 1954).

    Returns:
        estimate, low, high; None where the mean below can't be told from 0, for then any ratio is possible.
    """
    n = len(above)
    if n < 2:
        return None
    a, b = statistics.fmean(above), statistics.fmean(below)
    t = t_quantile((1 + confidence) / 2, n - 1)
    aa, bb = (t**2 * statistics.variance(values) / n for values in (above, below))
    ab = t**2 * statistics.covariance(above, below) / n
    # (a - r b)^2 = t^2 Var(a - r b), solved for r
    square = b**2 - bb
    if square <= 0:
        return None
    middle, root = a * b - ab, math.sqrt(max(0.0, (a * b - ab) ** 2 - square * (a**2 - aa)))
    return a / b, (middle - root) / square, (middle + root) / square


def margin_log(margin: float) -> float:
    """A margin given as a fraction (0.03 is 3%), on the scale of logs.

    Raises:
        ValueError: it is under 1%, which no run can show, or no fraction.
    """
    check_margin(margin)
    return math.log1p(margin)


def narrow(log_ratios: Sequence[float], margin: float, slack: float = 1.0) -> bool:
    """Whether the 95% half-width is at most half the margin, ``slack`` times.

    A precision, never a p-value, may end a measurement.
    """
    found = interval(log_ratios)
    return found.high is not None and found.high - found.estimate <= slack * margin_log(margin) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family of tests, in the order given (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def slopes(levels: Sequence[float], values: Sequence[Sequence[float]]) -> list[float]:
    """Slopes of least-squares lines over ``levels``: one line through the first process of each level, one through the
    second, and so on, as far as every level has one. Their spread holds whatever the levels' own spreads are.

    Raises:
        ValueError: there are fewer than two levels.
    """
    if len(set(levels)) < 2:
        raise ValueError("a slope needs at least two levels")
    return [statistics.linear_regression(levels, row).slope for row in zip(*values, strict=False)]


def seconds(blocks: Sequence[Sequence[float]]) -> float:
    """Absolute seconds: the median over processes of the median of each."""
    return statistics.median(statistics.median(process) for process in blocks)
