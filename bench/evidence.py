"""One piece of a claim's evidence, tried on cells: ratios by one-sided tests, figures without noise exactly.

Only cells that differ in nothing but what the claim speaks of are compared (`bench.records.conditions`); what is not
compared is named, with both values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.claim_files import Evidence, Relation, Selector
from bench.probes import figures
from bench.records import stats
from bench.records.conditions import configured, context, differing, flat
from bench.records.figures import Scope
from bench.records.record import CONTROL, MERGED, UNMERGED, Pairs, Record

ALPHA = 0.05
ABSENT = "no record of"
"""A cell without a partner decides nothing where others have one; a partner that may not be compared is told."""
Point = tuple[int, int]
"""Batch size and prompt length."""


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


def selects(selector: Selector, record: Record) -> bool:
    """Whether a record is of the cells meant."""
    known = configured(record)
    named = record.cell.method in selector.method and record.cell.implementation == selector.implementation
    return named and all(known.get(key) == value for key, value in selector.where.items())


def unfair(one: Record, other: Record) -> list[str]:
    """What two records differ in beside the method, each with both values; empty where comparing them is fair."""
    contexts = [context(one), context(other)]
    keys = [key for key in differing(contexts) if not key.endswith(".name")] or differing(contexts)
    return [f"{key} ({contexts[0].get(key)}, {contexts[1].get(key)})" for key in keys]


def cell_name(record: Record, point: Point | None = None) -> str:
    """A cell in words."""
    size = "" if record.cell.size is None else f" {record.cell.size}"
    layers = record.facts.get("model", {}).get("layers")
    deep = "" if layers is None else f", {layers} layers"
    where = "" if point is None else f", {point[0]} × {point[1]}"
    return f"{record.cell.name}{size}{deep}{where}"


def processes(record: Record, phase: str, state: str, point: Point, statistic: Callable[[Pairs], float]) -> list[float]:
    """The statistic of each process that timed this."""
    key = (phase, state, *point)
    return [statistic(p) for p in record.pairs if (p.phase, p.arm, p.batch_size, p.prompt_length) == key]


def best_measured(records: Sequence[Record], evidence: Evidence) -> list[Record]:
    """Of records that differ only in how much was measured, the one that measured most of what is asked for.

    So a closer look settles what a first one left open, instead of standing beside it.
    """
    best: dict[str, Record] = {}
    for record in records:
        config = {key: value for key, value in record.cell.config.items() if key != "precision"}
        work = {key: value for key, value in config["workload"].items() if key != "phases"}
        key = json.dumps([{**config, "workload": work}, _surroundings(record)], sort_keys=True, default=str)
        if key not in best or _amount(record, evidence) > _amount(best[key], evidence):
            best[key] = record
    return list(best.values())


def _surroundings(record: Record) -> dict[str, Any]:
    """What makes two records of one configuration two experiments: versions and machine."""
    held = flat(record.cell.config)
    return {key: value for key, value in context(record).items() if key not in held}


def _amount(record: Record, evidence: Evidence) -> tuple[int, str, str]:
    """How many pairs, or readings, a record has of what is asked for; of two alike, the later one."""
    if evidence.timed:
        count = sum(len(pairs.control_seconds) for pairs in record.pairs if pairs.phase == evidence.phase)
    else:
        count = sum(found.figure == evidence.quantity for found in record.readings)
    return count, record.started, record.cell_id


def partners(evidence: Evidence, state: str, record: Record, usable: Sequence[Record]) -> list[Record | Finding | None]:
    """The cells to compare with; None where it is the cell's own control or a formula."""
    than = evidence.than
    if not isinstance(than, Selector):
        return [None]
    selected = [
        other
        for other in usable
        if selects(than, other)
        and (other.cell_id, than.state) != (record.cell_id, state)
        and (not evidence.equal_size or other.cell.size == record.cell.size)
    ]
    fair: list[Record | Finding | None] = [
        *best_measured([other for other in selected if not unfair(record, other)], evidence)
    ]
    if fair:
        return fair
    name = cell_name(record)
    wanted = " or ".join(than.method) + (f" of size {record.cell.size}" if evidence.equal_size else "")
    reason = f"{ABSENT} {wanted}"
    if selected:
        nearest = min(selected, key=lambda other: len(unfair(record, other)))
        reason = f"not compared: {name} and {cell_name(nearest)} differ in {'; '.join(unfair(record, nearest))}"
    return [Finding(evidence, Verdict.UNCLEAR, name, wanted, reason=reason, records=(record.cell_id,))]


# Ratios


def ratios(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[Test | Finding]:
    """A test a workload point that both cells have."""
    other = evidence.than.state if isinstance(evidence.than, Selector) else UNMERGED
    ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
    for point in _shared_points(record, partner):
        name = cell_name(record, point)
        against = "control" if partner is None else f"{cell_name(partner, point)}, {other}"
        mine = processes(record, evidence.phase, state, point, stats.log_ratio)
        theirs = [] if partner is None else processes(partner, evidence.phase, other, point, stats.log_ratio)
        reason = None
        if not mine or (partner is not None and not theirs):
            reason = f"{evidence.quantity} was not measured here"
        elif partner is not None and _shares(record) != _shares(partner):
            reason = f"not compared: of {name} and {against} one had its arms share a set of weights"
        if reason is not None:
            yield Finding(evidence, Verdict.UNCLEAR, name, against, reason=reason, records=ids)
            continue
        found = stats.mean(mine) if partner is None else stats.difference(mine, theirs)
        moved = stats.Mean(found.value - math.log(evidence.times), found.error, found.freedom)
        yield Test(evidence, name, against, found, "ratio", *_p_values(evidence, moved), ids)
    if not _shared_points(record, partner):
        assert partner is not None
        reason = f"not compared: {cell_name(record)} and {cell_name(partner)} share no workload point"
        yield Finding(evidence, Verdict.UNCLEAR, cell_name(record), cell_name(partner), reason=reason, records=ids)


def _shared_points(record: Record, partner: Record | None) -> list[Point]:
    return [point for point in record.cell.points if partner is None or point in partner.cell.points]


def _shares(record: Record) -> bool:
    return any(pairs.shared_weights for pairs in record.pairs)


def _p_values(evidence: Evidence, found: stats.Mean) -> tuple[float, float]:
    """p-values of what the evidence says, and of its contrary."""
    margin = stats.margin_log(evidence.margin)
    match evidence.relation:
        case Relation.greater:
            return directed(found, margin)
        case Relation.less:
            return directed(stats.Mean(-found.value, found.error, found.freedom), margin)
        case Relation.same:
            return found.p_within(margin), min(1.0, 2 * min(found.p_above(margin), found.p_below(-margin)))
        case _:
            return found.p_below(margin), found.p_above(margin)


def directed(found: stats.Mean, margin: float) -> tuple[float, float]:
    """p-values that a mean lies above 0, and that it lies below or that it does not matter.

    What may well be above 0 is not refuted for being small: that it does not matter counts only where nothing shows.
    """
    p = found.p_above(0.0)
    nothing = found.p_within(margin) if p >= ALPHA else 1.0
    return p, min(1.0, 2 * min(nothing, found.p_below(0.0)))


# Figures without noise


def exacts(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[Finding]:
    """A comparison a workload point that both cells have; one where the figure does not depend on it."""
    other = evidence.than.state if isinstance(evidence.than, Selector) else UNMERGED
    ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
    against = "the formula" if isinstance(evidence.than, tuple) else str(evidence.than)
    against = against if partner is None else f"{cell_name(partner)}, {other}"
    seen: set[tuple[float, float]] = set()
    missing = False
    for point in _shared_points(record, partner) or record.cell.points:
        value = reading(record, evidence.quantity, state, point)
        if partner is not None:
            reference = reading(partner, evidence.quantity, other, point)
        else:
            reference = _reference(evidence, state, record, point)
        if value is None or reference is None:
            missing = True
            continue
        reference *= evidence.times
        if (value, reference) in seen:  # a figure that does not depend on the workload point
            continue
        seen.add((value, reference))
        held = {
            Relation.greater: value > reference,
            Relation.less: value < reference,
            Relation.equal: value == reference,
        }[evidence.relation]
        verdict = Verdict.SUPPORTED if held else Verdict.REFUTED
        name = cell_name(record, point)
        yield Finding(evidence, verdict, name, against, exact=Exact(value, reference), records=ids)
    if missing:
        reason = f"{evidence.quantity}, or what it is compared with, was not measured here"
        yield Finding(evidence, Verdict.UNCLEAR, cell_name(record), against, reason=reason, records=ids)


def reading(record: Record, figure: str, state: str, point: Point) -> float | None:
    """A figure of a state at a workload point; training's figures are those of the state that was trained."""
    if state == MERGED and figures()[figure].scope is Scope.TRAINING:
        state = UNMERGED
    for found in record.readings:
        here = found.batch_size in (None, point[0]) and found.prompt_length in (None, point[1])
        if (found.figure, found.state) == (figure, state) and here:
            return found.value
    return None


def _reference(evidence: Evidence, state: str, record: Record, point: Point) -> float | None:
    than = evidence.than
    if than == "control":
        return reading(record, evidence.quantity, CONTROL, point)
    if isinstance(than, int | float):
        return than
    assert isinstance(than, tuple)
    total = 0.0
    for product in than:
        factors = [_factor(name, evidence, state, record, point) for name in product]
        if any(factor is None for factor in factors):
            return None
        total += math.prod(factor for factor in factors if factor is not None)
    return total


def _factor(name: int | str, evidence: Evidence, state: str, record: Record, point: Point) -> float | None:
    if isinstance(name, int):
        return name
    if name == "control":
        return reading(record, evidence.quantity, CONTROL, point)
    facts: Mapping[str, Any] = {
        **record.facts.get("model", {}),
        "size": record.cell.size,
        "batch_size": point[0],
        "prompt_length": point[1],
    }
    value = facts[name] if name in facts else reading(record, name, state, point)
    return value if isinstance(value, int | float) else None
