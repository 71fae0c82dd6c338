"""Verdicts on claims: pure functions of claim files and records.

Only cells that differ in nothing but what the claim speaks of are compared (`bench.context`); what is not compared is
named. Tests that rest on a clock are one-sided, at 5% within the claim's family by Holm's method; figures without
noise are compared exactly.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench import stats
from bench.claim_files import Claim, Evidence, Relation, Selector
from bench.context import context, differing, flat, settings
from bench.figures import Scope
from bench.probes import figures
from bench.records import CONTROL, MERGED, UNMERGED, Pairs, Record, Status

ALPHA = 0.05
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
    """``ratio``, or what the slope is in, such as ``s per size``."""


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
class Judgement:
    """A claim's verdict in one setting."""

    claim: Claim
    verdict: Verdict
    setting: str
    """Model, dtype, device: what all compared cells share."""
    findings: tuple[Finding, ...] = ()
    reason: str | None = None

    @property
    def records(self) -> tuple[str, ...]:
        """Ids of the records that it stands on."""
        return tuple(sorted({record for finding in self.findings for record in finding.records}))


def judge_all(claims: Sequence[Claim], records: Sequence[Record]) -> list[Judgement]:
    """Every claim, in every setting that the records have cells for."""
    unique = {record.cell_id: record for record in sorted(records, key=lambda record: record.cell_id)}
    return [judgement for claim in claims for judgement in judge(claim, list(unique.values()))]


def judge(claim: Claim, records: Sequence[Record]) -> list[Judgement]:
    """One claim: a judgement a setting, or a single one that says why there is none."""
    if claim.later is not None:
        return [Judgement(claim, Verdict.LATER, "", reason=claim.later)]
    assert claim.about is not None
    usable = [record for record in records if record.status is Status.OK]
    axes = {evidence.over for evidence in claim.evidence if evidence.over}
    groups: dict[str, list[Record]] = {}
    for record in usable:
        if selects(claim.about, record):
            groups.setdefault(json.dumps(_without(context(record), axes), sort_keys=True), []).append(record)
    if not groups:
        missing = " or ".join(claim.about.method)
        where = "".join(f", {key} {value}" for key, value in claim.about.where.items())
        return [Judgement(claim, Verdict.NO_CELLS, "", reason=f"no record of {missing}{where}")]
    return [_judge_group(claim, group, usable) for _, group in sorted(groups.items())]


def selects(selector: Selector, record: Record) -> bool:
    """Whether a record is of the cells meant."""
    known = flat(record.cell.config)
    return record.cell.method in selector.method and all(
        known.get(key) == value for key, value in selector.where.items()
    )


def _judge_group(claim: Claim, group: Sequence[Record], usable: Sequence[Record]) -> Judgement:
    assert claim.about is not None
    trials = [trial for evidence in claim.evidence for trial in _trials(evidence, claim.about.state, group, usable)]
    timed = [trial for trial in trials if isinstance(trial, _Timed)]
    adjusted = iter(stats.holm([trial.p for trial in timed]))
    findings = [trial.finding(next(adjusted)) if isinstance(trial, _Timed) else trial for trial in trials]
    verdicts = {finding.verdict for finding in findings}
    if Verdict.REFUTED in verdicts:
        verdict = Verdict.REFUTED
    elif verdicts == {Verdict.SUPPORTED}:
        verdict = Verdict.SUPPORTED
    else:
        verdict = Verdict.UNCLEAR
    return Judgement(claim, verdict, _setting(group), tuple(findings))


def _setting(group: Sequence[Record]) -> str:
    first = group[0]
    config = first.cell.config
    parts = (
        first.cell.model,
        config["model"]["dtype"],
        config["runtime"]["name"],
        config["device"]["name"],
        first.machine.get("processor"),
    )
    return " · ".join(str(part) for part in parts if part is not None)


@dataclass(frozen=True)
class _Timed:
    """A test that waits for the others of its family."""

    evidence: Evidence
    subject: str
    against: str
    mean: stats.Mean
    unit: str
    p: float
    """Unadjusted."""
    refuted: bool
    """Whether the opposite was shown, or that whatever there is does not matter."""
    records: tuple[str, ...]

    def finding(self, adjusted: float) -> Finding:
        """With the p-value that the family leaves it."""
        scale: Callable[[float], float] = math.exp if self.unit == "ratio" else float
        known = math.isfinite(self.mean.error)
        low, high = (scale(self.mean.bound(side)) if known else None for side in (0.025, 0.975))
        verdict = Verdict.UNCLEAR
        if adjusted < ALPHA:
            verdict = Verdict.SUPPORTED
        elif self.refuted:
            verdict = Verdict.REFUTED
        reason = None if known else "one process: there is no spread to judge by"
        effect = Effect(scale(self.mean.value), low, high, adjusted, self.unit)
        return Finding(self.evidence, verdict, self.subject, self.against, effect, None, reason, self.records)


def _trials(
    evidence: Evidence, state: str, group: Sequence[Record], usable: Sequence[Record]
) -> Iterator[_Timed | Finding]:
    state = evidence.state or state
    if evidence.relation is Relation.grows:
        yield from _growth(evidence, state, group)
        return
    for record in group:
        for partner in _partners(evidence, record, usable):
            if isinstance(partner, Finding):
                yield partner
            elif evidence.timed:
                yield from _ratios(evidence, state, record, partner)
            else:
                yield from _exacts(evidence, state, record, partner)


def _partners(evidence: Evidence, record: Record, usable: Sequence[Record]) -> Iterable[Record | Finding | None]:
    """The cells to compare with; None where it is the cell's own control or a formula."""
    if not isinstance(evidence.than, Selector):
        return [None]
    selected = [
        other
        for other in usable
        if selects(evidence.than, other)
        and other.cell_id != record.cell_id
        and (not evidence.equal_size or other.cell.size == record.cell.size)
    ]
    fair = [other for other in selected if not unfair(record, other)]
    if fair:
        return fair
    name = cell_name(record)
    wanted = " or ".join(evidence.than.method) + (f" of size {record.cell.size}" if evidence.equal_size else "")
    reason = f"no record of {wanted}"
    if selected:
        nearest = min(selected, key=lambda other: len(unfair(record, other)))
        reason = f"not compared: {name} and {cell_name(nearest)} differ in {'; '.join(unfair(record, nearest))}"
    return [Finding(evidence, Verdict.UNCLEAR, name, wanted, reason=reason, records=(record.cell_id,))]


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
    return f"{record.cell.method}{size}{deep}{where}"


def points(record: Record) -> list[Point]:
    """The workload points of a record."""
    work = record.cell.config["workload"]
    return [(batch, length) for batch in work["batch_sizes"] for length in work["prompt_lengths"]]


# Ratios


def _ratios(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[_Timed | Finding]:
    other = evidence.than.state if isinstance(evidence.than, Selector) else UNMERGED
    for point in points(record):
        name = cell_name(record, point)
        against = "control" if partner is None else f"{cell_name(partner, point)}, {other}"
        mine = _processes(record, evidence.quantity, state, point, stats.log_ratio)
        theirs = [] if partner is None else _processes(partner, evidence.quantity, other, point, stats.log_ratio)
        ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
        if not mine or (partner is not None and not theirs):
            reason = f"{evidence.quantity} was not measured here"
            yield Finding(evidence, Verdict.UNCLEAR, name, against, reason=reason, records=ids)
            continue
        found = stats.mean(mine) if partner is None else stats.difference(mine, theirs)
        moved = stats.Mean(found.value - math.log(evidence.times), found.error, found.freedom)
        p, refuted = _test(evidence, moved)
        yield _Timed(evidence, name, against, found, "ratio", p, refuted, ids)


def _test(evidence: Evidence, found: stats.Mean) -> tuple[float, bool]:
    """p-value of what the evidence says, and whether its contrary was shown."""
    margin = stats.margin_log(evidence.margin)
    outside = min(found.p_above(margin), found.p_below(-margin)) < ALPHA
    within = found.p_within(margin) < ALPHA
    match evidence.relation:
        case Relation.greater:
            return found.p_above(0.0), within or found.p_below(0.0) < ALPHA
        case Relation.less:
            return found.p_below(0.0), within or found.p_above(0.0) < ALPHA
        case Relation.same:
            return found.p_within(margin), outside
        case _:
            return found.p_below(margin), found.p_above(margin) < ALPHA


def _processes(
    record: Record, quantity: str, state: str, point: Point, statistic: Callable[[Pairs], float]
) -> list[float]:
    """The statistic of each process that timed this."""
    phase = quantity.partition("_")[0]
    key = (phase, state, *point)
    return [statistic(p) for p in record.pairs if (p.phase, p.arm, p.batch_size, p.prompt_length) == key]


# Growth


@dataclass(frozen=True)
class _Spot:
    """One place on a line: a record at a workload point."""

    record: Record
    point: Point
    level: float
    rest: Mapping[str, Any]
    """What must be the same along the line."""


def _growth(evidence: Evidence, state: str, group: Sequence[Record]) -> Iterator[_Timed | Finding]:
    """Slopes of the extra seconds over one axis, at the largest values of the other axes: there an effect shows."""
    assert evidence.over is not None
    spots = [spot for record in group for point in points(record) if (spot := _spot(evidence.over, record, point))]
    spots = [s for s in spots if _processes(s.record, evidence.quantity, state, s.point, stats.extra_seconds)]
    lines: dict[str, list[_Spot]] = {}
    for spot in spots:
        lines.setdefault(json.dumps(spot.rest, sort_keys=True, default=str), []).append(spot)
    grown = [line for line in lines.values() if len({spot.level for spot in line}) > 1]
    if not grown:
        yield _no_line(evidence, group, spots)
        return
    line = max(grown, key=lambda line: (len({s.level for s in line}), _largest(line)))
    line = sorted({spot.level: spot for spot in line}.values(), key=lambda spot: spot.level)
    values = [_processes(s.record, evidence.quantity, state, s.point, stats.extra_seconds) for s in line]
    levels = [spot.level for spot in line]
    found = stats.mean(stats.slopes(levels, values))
    # beyond what part of the control's own step must growth over the range lie to matter?
    control = max(_control_seconds(spot, evidence.quantity) for spot in line)
    margin = evidence.margin * control / (levels[-1] - levels[0])
    refuted = found.p_within(margin) < ALPHA or found.p_below(0.0) < ALPHA
    axis = evidence.over.rpartition(".")[2]
    subject = f"{cell_name(line[-1].record, line[-1].point)}; {axis} {', '.join(f'{level:g}' for level in levels)}"
    ids = tuple(dict.fromkeys(spot.record.cell_id for spot in line))
    yield _Timed(evidence, subject, "0", found, f"s per {axis}", found.p_above(0.0), refuted, ids)


def _spot(over: str, record: Record, point: Point) -> _Spot | None:
    axes: dict[str, Any] = {"size": record.cell.size, "batch_size": point[0], "prompt_length": point[1]}
    same = {**context(record), **settings(record), **axes}
    config = flat(record.cell.config)
    level = axes.get(over, config.get(over))
    if isinstance(level, bool) or not isinstance(level, int | float):
        return None
    # the size goes by a name of the method's own in the configuration
    twins = [k for k, v in config.items() if over == "size" and k.startswith("method.") and v == record.cell.size]
    return _Spot(record, point, float(level), _without(same, {over, *twins, *_LISTS}))


_LISTS = ("workload.batch_sizes", "workload.prompt_lengths", "workload.phases")


def _largest(line: Sequence[_Spot]) -> tuple[float, ...]:
    return max((float(spot.record.cell.size or 0), *map(float, spot.point)) for spot in line)


def _control_seconds(spot: _Spot, quantity: str) -> float:
    phase = quantity.partition("_")[0]
    key = (phase, *spot.point)
    return stats.seconds(
        [p.control_seconds for p in spot.record.pairs if (p.phase, p.batch_size, p.prompt_length) == key]
    )


def _no_line(evidence: Evidence, group: Sequence[Record], spots: Sequence[_Spot]) -> Finding:
    over = evidence.over
    levels = {spot.level for spot in spots}
    reason = f"growth over {over} needs cells with at least two values of it"
    if len(levels) > 1:
        keys = differing([spot.rest for spot in spots])
        reason = f"not compared: the cells differ in more than {over}: {', '.join(keys)}"
    names = ", ".join(dict.fromkeys(cell_name(record) for record in group))
    ids = tuple(record.cell_id for record in group)
    return Finding(evidence, Verdict.UNCLEAR, names, "0", reason=reason, records=ids)


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


# Figures without noise


def _exacts(evidence: Evidence, state: str, record: Record, partner: Record | None) -> Iterator[Finding]:
    other = evidence.than.state if isinstance(evidence.than, Selector) else UNMERGED
    seen: set[tuple[float, float]] = set()
    for point in points(record):
        value = reading(record, evidence.quantity, state, point)
        against = "control" if evidence.than == "control" else "the formula"
        if partner is not None:
            against = f"{cell_name(partner)}, {other}"
            reference = reading(partner, evidence.quantity, other, point)
        else:
            reference = _reference(evidence, state, record, point)
        ids = (record.cell_id, *([] if partner is None else [partner.cell_id]))
        name = cell_name(record, point)
        if value is None or reference is None:
            reason = f"{evidence.quantity}, or what it is compared with, was not measured here"
            yield Finding(evidence, Verdict.UNCLEAR, name, against, reason=reason, records=ids)
            return
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
        yield Finding(evidence, verdict, name, against, exact=Exact(value, reference), records=ids)


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
    facts: dict[str, Any] = {
        **record.facts.get("model", {}),
        "size": record.cell.size,
        "batch_size": point[0],
        "prompt_length": point[1],
    }
    value = facts[name] if name in facts else reading(record, name, state, point)
    return value if isinstance(value, int | float) else None


def settle(judgement: Judgement) -> str | None:
    """The command that would decide what is unclear or has no cells."""
    if judgement.verdict not in (Verdict.UNCLEAR, Verdict.NO_CELLS) or not judgement.claim.settle:
        return None
    wide = any(finding.effect is not None and finding.verdict is Verdict.UNCLEAR for finding in judgement.findings)
    overrides = [*judgement.claim.settle, *(["precision=strict"] if wide else [])]
    return f"python -m bench multirun {' '.join(overrides)}"


def surprising(judgement: Judgement) -> bool:
    """Whether a verdict is the contrary of what the claim's file expects."""
    decided = judgement.verdict in (Verdict.SUPPORTED, Verdict.REFUTED)
    expected = judgement.claim.expected
    return decided and expected is not None and str(judgement.verdict) != str(expected)


def plain(judgement: Judgement) -> dict[str, Any]:
    """A judgement as plain values, for JSON."""
    found = dataclasses.asdict(judgement)
    return {
        "claim": judgement.claim.id,
        "statement": judgement.claim.statement,
        "source": judgement.claim.source,
        "verdict": str(judgement.verdict),
        "expected": judgement.claim.expected,
        "setting": judgement.setting,
        "reason": judgement.reason,
        "findings": found["findings"],
        "records": judgement.records,
        "settle": settle(judgement),
    }
