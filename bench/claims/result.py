"""The result of one piece of evidence: a verdict, with an effect or with exact values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.claims.claim import Evidence
from bench.records import stats

ALPHA = 0.05
MEDIAN, MEAN = "median", "mean"


class Verdict(StrEnum):
    """The verdict on a claim, or on one piece of its evidence."""

    SUPPORTED = "supported"
    NEGLIGIBLE = "negligible"
    """Of ``greater``, ``less``, ``grows``: shown to be smaller than the margin, whether or not it is there at all."""
    REFUTED = "refuted"
    """The contrary was shown."""
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
    statistic: str = MEDIAN
    """What it is of: the ``median`` of the pairs, or the ``mean`` where the median alone would support the evidence."""


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
class PValues:
    """p-values of what a test may show."""

    evidence: float
    """That it is as the evidence says."""
    contrary: float
    negligible: float = 1.0
    """That it is less than the margin."""

    @property
    def verdict(self) -> Verdict:
        """What is shown. An effect that is significantly there is not denied for being small."""
        shown = (
            (self.evidence, Verdict.SUPPORTED),
            (self.contrary, Verdict.REFUTED),
            (self.negligible, Verdict.NEGLIGIBLE),
        )
        return next((verdict for p, verdict in shown if p < ALPHA), Verdict.UNCLEAR)


def adjusted(family: Sequence[PValues]) -> list[PValues]:
    """The p-values of a claim's tests, Holm-adjusted for each verdict by itself."""
    columns = (stats.holm(column) for column in zip(*map(dataclasses.astuple, family), strict=True))
    return [PValues(*row) for row in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Sample:
    """A timed effect by both statistics of its processes."""

    median: stats.Mean
    mean: stats.Mean
    """Of mean seconds, which also shows what only some steps cost."""

    @property
    def median_only(self) -> Sample:
        """The effect as it would be without a look at the mean."""
        return Sample(self.median, self.median)

    def less(self, shift: float) -> Sample:
        """The effect minus ``shift``."""
        return Sample(*(dataclasses.replace(one, value=one.value - shift) for one in (self.median, self.mean)))

    def __neg__(self) -> Sample:
        return Sample(*(dataclasses.replace(one, value=-one.value) for one in (self.median, self.mean)))

    def p_below(self, limit: float) -> float:
        """p-value of the test that both lie below ``limit``."""
        return max(self.median.p_below(limit), self.mean.p_below(limit))

    def p_within(self, margin: float) -> float:
        """p-value of the test that both lie within ``margin`` of 0."""
        return max(self.median.p_within(margin), self.mean.p_within(margin))

    def p_beyond(self, limit: float) -> float:
        """p-value of the test that one of them lies above ``limit``."""
        return min(1.0, 2 * min(self.median.p_above(limit), self.mean.p_above(limit)))


@dataclass(frozen=True)
class Test:
    """A test on seconds. Its verdict depends on the other tests of the claim."""

    evidence: Evidence
    subject: str
    against: str
    sample: Sample
    unit: str
    p: PValues
    """Unadjusted."""
    median_p: float
    """p-value of what the evidence says, by the median alone."""
    records: tuple[str, ...]

    def result(self, p: PValues) -> EvidenceResult:
        """The result, with the p-values adjusted for the claim's other tests."""
        to_blame = self.p.evidence > self.median_p and p.evidence >= ALPHA > self.median_p
        statistic = MEAN if to_blame else MEDIAN
        found = self.sample.mean if statistic == MEAN else self.sample.median
        scale: Callable[[float], float] = math.exp if self.unit == "ratio" else float
        known = math.isfinite(found.error)
        low, high = (scale(found.bound(side)) if known else None for side in (0.025, 0.975))
        reason = None if known else "one process: an interval needs two"
        effect = Effect(scale(found.value), low, high, p.evidence, self.unit, statistic)
        return EvidenceResult(self.evidence, p.verdict, self.subject, self.against, effect, None, reason, self.records)


def directed(sample: Sample, margin: float) -> PValues:
    """That the median lies above 0, that it lies below 0, and that both it and the mean lie within ``margin`` of 0."""
    return PValues(sample.median.p_above(0.0), sample.median.p_below(0.0), sample.p_within(margin))
