"""One piece of a claim's evidence, tried on cells: ratios by one-sided tests, figures without noise exactly.

Only cells that differ in nothing but what the claim speaks of are compared (`bench.records.conditions`); what is not
compared is named, with both values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.claims.claim import Evidence, Relation, Selector
from bench.claims.finding import Exact, Finding, Test, Verdict, directed
from bench.claims.pairing import ABSENT, Point, best_measured, cell_name, processes, selects, unfair
from bench.probes import figures
from bench.records import stats
from bench.records.figures import Scope
from bench.records.record import CONTROL, MERGED, UNMERGED, Record


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
