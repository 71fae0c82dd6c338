"""The result of one piece of evidence: a verdict, with an effect or with exact values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from bench.claims.claim import Evidence
from bench.records import stats

ALPHA = 0.05


class Verdict(StrEnum):
    """The verdict on a claim, or on one piece of its evidence."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    UNCLEAR = "unclear"
    NO_CELLS = "no cells"
    BLOCKED = "blocked"


@dataclass(frozen=True)
class Effect:
    """A timed effect: a ratio (1.05 is five per cent slower), or a slope in seconds."""

    value: float
    low: float | None
    """95% interval."""
    high: float | None
    p: float
    """p-value of the test that the evidence asks for, Holm-adjusted within the claim."""
    unit: str
    """``ratio``, or the unit of the slope, such as ``s per layer``."""


@dataclass(frozen=True)
class Exact:
    """A deterministic metric and the value that it was compared with."""

    value: float
    reference: float


@dataclass(frozen=True)
class EvidenceResult:
    """One piece of evidence, judged on one cell (or one line through several) at one workload point."""

    evidence: Evidence
    verdict: Verdict
    subject: str
    """Which cell, in words."""
    against: str
    effect: Effect | None = None
    exact: Exact | None = None
    reason: str | None = None
    """Why it is unclear, unless the interval is simply too wide."""
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Test:
    """A test on seconds. Its verdict depends on the other tests of the claim."""

    evidence: Evidence
    subject: str
    against: str
    mean: stats.Mean
    unit: str
    p: float
    """p-value of what the evidence says, unadjusted."""
    contrary: float
    """p-value of the contrary: that the opposite holds, or that the effect is too small to matter."""
    records: tuple[str, ...]

    def result(self, p: float, contrary: float) -> EvidenceResult:
        """The result, with the p-values adjusted for the claim's other tests."""
        scale: Callable[[float], float] = math.exp if self.unit == "ratio" else float
        known = math.isfinite(self.mean.error)
        low, high = (scale(self.mean.bound(side)) if known else None for side in (0.025, 0.975))
        verdict = Verdict.UNCLEAR
        if p < ALPHA:
            verdict = Verdict.SUPPORTED
        elif contrary < ALPHA:
            verdict = Verdict.REFUTED
        reason = None if known else "one process: an interval needs two"
        effect = Effect(scale(self.mean.value), low, high, p, self.unit)
        return EvidenceResult(self.evidence, verdict, self.subject, self.against, effect, None, reason, self.records)


def directed(found: stats.Mean, margin: float) -> tuple[float, float]:
    """p-values that a mean lies above 0, and that it lies below 0 or is too small to matter.

    An effect that is significantly above 0 is not refuted for being small.
    """
    p = found.p_above(0.0)
    nothing = found.p_within(margin) if p >= ALPHA else 1.0
    return p, min(1.0, 2 * min(nothing, found.p_below(0.0)))
