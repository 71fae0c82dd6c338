"""Compares cells for one piece of a claim's evidence: ratios by one-sided tests, deterministic metrics exactly.

Only cells under equal conditions (`bench.records.conditions`) are compared. A cell that is not compared is named with
the conditions that differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.claims.claim import Evidence, Relation, Selector
from bench.claims.pairing import ABSENT, best_measured, cell_name, confounders, selects
from bench.claims.result import EvidenceResult, Exact, PValues, Sample, Test, Verdict, directed
from bench.probes.registry import measured
from bench.records import stats
from bench.records.conditions import TRAIN_REFERENCE, configured
from bench.records.record import CONTROL, TRAIN, UNMERGED, Pairs, Point, Record


def partners(
    evidence: Evidence, state: str, record: Record, usable: Sequence[Record]
) -> list[Record | EvidenceResult | None]:
    """The cells to compare with; None for the cell's own control, a number or a formula."""
    other_cells = evidence.compared_to
    if not isinstance(other_cells, Selector):
        return [None]
    selected = [
        other
        for other in usable
        if selects(other_cells, other)
        and (other.cell_id, other_cells.state) != (record.cell_id, state)
        and (not evidence.equal_size or other.cell.size == record.cell.size)
    ]
    fair: list[Record | EvidenceResult | None] = [
        *best_measured([other for other in selected if not confounders(record, other, evidence)], evidence)
    ]
    if fair:
        return fair
    name = cell_name(record)
    wanted = " or ".join(other_cells.method) + (f" of size {record.cell.size}" if evidence.equal_size else "")
    reason = f"{ABSENT} {wanted}"
    if selected:
        found = {other.cell_id: confounders(record, other, evidence) for other in selected}
        nearest = min(selected, key=lambda other: len(found[other.cell_id]))
        reason = f"not compared: {name} and {cell_name(nearest)} differ in {'; '.join(found[nearest.cell_id])}"
    return [EvidenceResult(evidence, Verdict.UNCLEAR, name, wanted, reason=reason, records=(record.cell_id,))]


# Ratios


def ratios(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[Test | EvidenceResult]:
    """One test for each workload point that both cells have; a single one of training."""
    other = _other_state(evidence)
    ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
    points = [None] if evidence.phase == TRAIN else _shared_points(record, partner)
    for point in points:
        name = cell_name(record, point)
        against = _timed_with(evidence, record) if partner is None else f"{cell_name(partner, point)}, {other}"
        mine = _timed(evidence, state, record, point)
        theirs = [] if partner is None else _timed(evidence, other, partner, point)
        reason = None
        if not mine or (partner is not None and not theirs):
            reason = f"{evidence.quantity} was not measured here"
        elif partner is not None and _share(mine) != _share(theirs):
            reason = f"not compared: the arms of either {name} or {against} shared a set of weights"
        if reason is not None:
            yield EvidenceResult(evidence, Verdict.UNCLEAR, name, against, reason=reason, records=ids)
            continue
        found = _sample(mine, theirs)
        found = -found if evidence.phase == TRAIN else found  # samples are seconds, and the quantity is a speed
        p, by_median = (_p_values(evidence, s.less(math.log(evidence.times))) for s in (found, found.median_only))
        yield Test(evidence, name, against, found, "ratio", p, by_median.evidence, ids)
    if not points:
        assert partner is not None
        reason = f"not compared: {cell_name(record)} and {cell_name(partner)} share no workload point"
        yield EvidenceResult(
            evidence, Verdict.UNCLEAR, cell_name(record), cell_name(partner), reason=reason, records=ids
        )


def _timed(evidence: Evidence, state: str, record: Record, point: Point | None) -> list[Pairs]:
    """The samples behind a ratio. Training that was timed with a reference of the cell's own is not among them."""
    if evidence.phase != TRAIN:
        return record.pairs_of(evidence.phase, state, point)
    return [] if record.cell.reference is not None else record.pairs_of(TRAIN, UNMERGED)


def _share(pairs: Sequence[Pairs]) -> bool:
    """Whether the arms shared one set of weights in any process."""
    return any(one.shared_weights for one in pairs)


def _timed_with(evidence: Evidence, record: Record) -> str:
    """What a ratio is to: the control, or the training reference."""
    return str(configured(record)[TRAIN_REFERENCE]) if evidence.phase == TRAIN else CONTROL


def _shared_points(record: Record, partner: Record | None) -> list[Point]:
    return [point for point in record.cell.points if partner is None or point in partner.cell.points]


def _other_state(evidence: Evidence) -> str:
    return evidence.compared_to.state if isinstance(evidence.compared_to, Selector) else UNMERGED


def _sample(mine: Sequence[Pairs], theirs: Sequence[Pairs]) -> Sample:
    """The ratio to the control, or to the ratio of other cells to theirs, by both statistics."""
    sides = [
        ([own.log_ratio for own in pairs], [own.mean_log_ratio for own in pairs]) for pairs in (mine, theirs) if pairs
    ]
    return Sample(*(stats.mean(*s) if len(s) == 1 else stats.difference(*s) for s in zip(*sides, strict=True)))


def _p_values(evidence: Evidence, found: Sample) -> PValues:
    margin = stats.margin_log(evidence.margin)
    match evidence.relation:
        case Relation.greater:
            return directed(found, margin)
        case Relation.less:
            return directed(-found, margin)
        case Relation.same:
            return PValues(found.p_within(margin), min(1.0, 2 * min(found.p_beyond(margin), (-found).p_beyond(margin))))
        case _:
            return PValues(found.p_below(margin), found.p_beyond(margin))


# Deterministic metrics


def exacts(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[EvidenceResult]:
    """One comparison for each workload point that both cells have; a single one if the metric does not depend on it."""
    other = _other_state(evidence)
    ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
    against = "the formula" if isinstance(evidence.compared_to, tuple) else str(evidence.compared_to)
    against = against if partner is None else f"{cell_name(partner)}, {other}"
    seen: set[tuple[float, float]] = set()
    missing = False
    for point in _shared_points(record, partner) or record.cell.points:
        value = measured(record, evidence.quantity, state, point)
        if partner is not None:
            reference = measured(partner, evidence.quantity, other, point)
        else:
            reference = _reference(evidence, state, record, point)
        if value is None or reference is None:
            missing = True
            continue
        reference *= evidence.times
        if (value, reference) in seen:  # a metric that does not depend on the workload point
            continue
        seen.add((value, reference))
        held = {
            Relation.greater: value > reference,
            Relation.less: value < reference,
            Relation.equal: value == reference,
        }[evidence.relation]
        verdict = Verdict.SUPPORTED if held else Verdict.REFUTED
        name = cell_name(record, point)
        yield EvidenceResult(evidence, verdict, name, against, exact=Exact(value, reference), records=ids)
    if missing:
        reason = f"{evidence.quantity}, or what it is compared with, was not measured here"
        yield EvidenceResult(evidence, Verdict.UNCLEAR, cell_name(record), against, reason=reason, records=ids)


def _reference(evidence: Evidence, state: str, record: Record, point: Point) -> float | None:
    other = evidence.compared_to
    if other == "control":
        return measured(record, evidence.quantity, CONTROL, point)
    if isinstance(other, int | float):
        return other
    assert isinstance(other, tuple)
    total = 0.0
    for product in other:
        factors = [_factor(name, evidence, state, record, point) for name in product]
        if any(factor is None for factor in factors):
            return None
        total += math.prod(factor for factor in factors if factor is not None)
    return total


def _factor(name: int | str, evidence: Evidence, state: str, record: Record, point: Point) -> float | None:
    if isinstance(name, int):
        return name
    if name == "control":
        return measured(record, evidence.quantity, CONTROL, point)
    known: Mapping[str, Any] = {
        **record.metadata.get("model", {}),
        "size": record.cell.size,
        "batch_size": point[0],
        "prompt_length": point[1],
    }
    value = known[name] if name in known else measured(record, name, state, point)
    return value if isinstance(value, int | float) else None
