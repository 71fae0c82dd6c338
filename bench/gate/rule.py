"""The rule of the regression gate: two sets of log-ratios in, a verdict out. Pure.

It is applied to two statistics of a process: the median log-ratio, which shows what every step costs and no single
disturbance moves, and the log-ratio of mean seconds, which also shows what some steps cost. The latter has a wider
rule, because a neighbor's burst in one block moves it.

On ratios to the control, never on seconds: those are the machine's, and a gate on them cries wolf in a third of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.records import stats

SURE = 0.995
"""One-sided confidence, in each of the two statistics, that something changed at all: 99% for both (Bonferroni)."""
SAFE = 0.95
"""One-sided confidence that nothing changed by as much as `Rule.passed_below`."""


class Verdict(StrEnum):
    """What the gate says of one metric."""

    PASSED = "PASSED"
    REGRESSED = "REGRESSED"
    AMBIGUOUS = "AMBIGUOUS"
    INCOMPARABLE = "INCOMPARABLE"


@dataclass(frozen=True)
class Rule:
    """When a change of latency counts. All are fractions: 0.03 is 3%."""

    threshold: float = 0.03
    """A smaller estimate is no regression, however sure."""
    passed_below: float = 0.05
    """What a passing metric certainly did not lose."""

    @classmethod
    def at(cls, threshold: float) -> Rule:
        """The rule with another threshold, and with a bound for passing that is not below it."""
        return cls(threshold, max(threshold, cls.passed_below))

    def for_means(self) -> Rule:
        """The rule for ratios of mean seconds, whose spread between copies is about twice that of medians."""
        return Rule(self.threshold + 0.02, self.passed_below + 0.05)


SAME_MACHINE, OTHER_MACHINE = Rule(), Rule.at(0.05)


@dataclass(frozen=True)
class Change:
    """How a ratio to the control moved; 0.05 is five per cent slower."""

    verdict: Verdict
    estimate: float
    low: float
    """Lower 99.5% bound."""
    high: float
    """Upper 95% bound."""
    improved: bool = False
    """Faster, by the rule that makes a regression in the other direction."""


def judge(before: Sequence[float], after: Sequence[float], rule: Rule) -> Change:
    """The verdict on the log-ratios of one metric, a number a process on each side.

    Raises:
        ValueError: a side has fewer than two processes, which leaves no spread to judge by.
    """
    if min(len(before), len(after)) < 2:
        raise ValueError(f"{min(len(before), len(after))} process: a spread needs two")
    moved = stats.difference(after, before)
    low, high = moved.bound(1 - SURE), moved.bound(SAFE)
    limit = math.log1p(rule.threshold)
    if low > 0 and moved.value > limit:
        verdict = Verdict.REGRESSED
    elif high < math.log1p(rule.passed_below):
        verdict = Verdict.PASSED
    else:
        verdict = Verdict.AMBIGUOUS
    improved = moved.bound(SURE) < 0 and moved.value < -limit
    return Change(verdict, math.expm1(moved.value), math.expm1(low), math.expm1(high), improved)


def confirmed(first: Change, again: Change) -> Change:
    """A regression stands where a fresh repeat finds it again; otherwise nobody knows."""
    if first.verdict is Verdict.REGRESSED and again.verdict is not Verdict.REGRESSED:
        return Change(Verdict.AMBIGUOUS, again.estimate, again.low, again.high)
    return again if first.verdict is Verdict.REGRESSED else first
