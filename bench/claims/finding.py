"""What comes of one piece of evidence: a verdict with an effect or with exact values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.claims.claim import Evidence
from bench.records import stats

ALPHA = 0.05


class Verdict(StrEnum):
    """What comes of a claim, or of one piece of its evidence."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNCLEAR = "unclear"
    NO_CELLS = "no cells"
    LATER = "later"


@dataclass(frozen=True)
class Effect:
    """What a clock found: a ratio (1.05 is five per cent slower), or a slope in seconds."""

    value: float
    low: float | None
    """95% interval."""
    high: float | None
    p: float
    """Of the test that the evidence asks for, Holm-adjusted within the claim."""
    unit: str
    """``ratio``, or what the slope is in, such as ``s per layer``."""


@dataclass(frozen=True)
class Exact:
    """A figure without noise, and what it was compared with."""

    value: float
    reference: float


@dataclass(frozen=True)
class Finding:
    """One piece of evidence, judged on one cell (or one line through several) at one workload point."""

    evidence: Evidence
    verdict: Verdict
    subject: str
    """Which cell, in words."""
    against: str
    effect: Effect | None = None
    exact: Exact | None = None
    reason: str | None = None
    """Why it is unclear, where it is not for the width of an interval."""
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """A test on seconds, which waits for the others of its family."""

    evidence: Evidence
    subject: str
    against: str
    mean: stats.Mean
    unit: str
    p: float
    """That what the evidence says is so, unadjusted."""
    contrary: float
    """p-value that it is not: that the opposite holds, or that whatever there is does not matter."""
    records: tuple[str, ...]

    def finding(self, p: float, contrary: float) -> Finding:
        """With the p-values that the family leaves it."""
        scale: Callable[[float], float] = math.exp if self.unit == "ratio" else float
        known = math.isfinite(self.mean.error)
        low, high = (scale(self.mean.bound(side)) if known else None for side in (0.025, 0.975))
        verdict = Verdict.UNCLEAR
        if p < ALPHA:
            verdict = Verdict.SUPPORTED
        elif contrary < ALPHA:
            verdict = Verdict.REFUTED
        reason = None if known else "one process: there is no spread to judge by"
        effect = Effect(scale(self.mean.value), low, high, p, self.unit)
        return Finding(self.evidence, verdict, self.subject, self.against, effect, None, reason, self.records)


def directed(found: stats.Mean, margin: float) -> tuple[float, float]:
    """p-values that a mean lies above 0, and that it lies below or that it does not matter.

    What may well be above 0 is not refuted for being small: that it does not matter counts only where nothing shows.
    """
    p = found.p_above(0.0)
    nothing = found.p_within(margin) if p >= ALPHA else 1.0
    return p, min(1.0, 2 * min(nothing, found.p_below(0.0)))
