"""What verdicts on claims say: a table for each setting, details for Markdown, plain values for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from bench.claims.claim import Relation
from bench.claims.result import MEAN, Effect, EvidenceResult, Verdict
from bench.claims.verdict import Judgment, command, unexpected
from bench.probes.registry import metrics
from bench.records.metrics import Unit
from bench.records.units import show
from bench.report.table import Column, Report, Table, Text

# 1: until November 2026.
# 2: the words of schema 2 of records; "findings" are "results", "settle" is "reproduce".
# 3: a verdict "negligible", which was "refuted"; "margin" says what it is smaller than. An effect has a "statistic".
REPORT_SCHEMA = 3
STYLES = {
    Verdict.SUPPORTED: "green",
    Verdict.NEGLIGIBLE: "blue",
    Verdict.REFUTED: "red",
    Verdict.UNCLEAR: "yellow",
}
SIGNS = {Relation.greater: ">", Relation.less: "<", Relation.equal: "="}
COLUMNS = (
    Column("claim", left=True),
    Column("verdict", left=True),
    Column("effect (95% interval)", left=True, wrap=True),
    Column("mechanism", left=True, wrap=True),
)


def claims_report(judgments: Sequence[Judgment], details: bool) -> Report:
    """A row for each claim and setting, then the commands that measure what is open; with ``details`` all evidence."""
    settings = dict.fromkeys(judgment.setting for judgment in judgments)
    ordered = sorted(settings, key=lambda setting: not setting)  # claims without cells come last
    groups = [[one for one in judgments if one.setting == setting] for setting in ordered]
    tables = [_table(setting, group, details) for setting, group in zip(ordered, groups, strict=True)]
    plain = {"schema_version": REPORT_SCHEMA, "claims": [_plain_judgment(judgment) for judgment in judgments]}
    return Report(tables, closing=() if details else tuple(_open(judgments)), plain=plain)


def _table(setting: str, group: Sequence[Judgment], details: bool) -> Table:
    return Table(
        title=setting or "Without a verdict",
        columns=COLUMNS,
        rows=tuple(map(_row, group)),
        notes=tuple(Text("\n".join(_details(judgment))) for judgment in group) if details else (),
        styles={(number, 1): STYLES.get(judgment.verdict, "dim") for number, judgment in enumerate(group)},
    )


def _row(judgment: Judgment) -> tuple[str, str, str, str]:
    timed = _representative(judgment, timed=True)
    exact = _representative(judgment, timed=False)
    verdict = str(judgment.verdict) if judgment.margin is None else f"< {_percent(judgment.margin)}"
    verdict += " (!)" if unexpected(judgment) else ""
    effect = ""
    if timed is not None:
        effect = _effect(timed.effect) if timed.effect else (timed.reason or "")
    return judgment.claim.id, verdict, effect or judgment.reason or "", "" if exact is None else _exact(exact)


def _representative(judgment: Judgment, timed: bool) -> EvidenceResult | None:
    """The result that represents the others: the first one with the claim's own verdict."""
    found = [result for result in judgment.results if result.evidence.timed == timed]
    found.sort(key=lambda result: result.verdict != judgment.verdict)
    return found[0] if found else None


def _percent(margin: float) -> str:
    return f"{100 * margin:g}%"


def _verdict(verdict: Verdict, margin: float | None) -> str:
    """In words: a negligible effect is less than its margin."""
    return str(verdict) if verdict is not Verdict.NEGLIGIBLE or margin is None else f"less than {_percent(margin)}"


def _effect(effect: Effect) -> str:
    known = effect.low is not None and effect.high is not None
    if effect.unit == "ratio":
        low, high = effect.low, effect.high
        which = "mean " if effect.statistic == MEAN else ""
        return f"{which}× {effect.value:.3f}" + (f" ({low:.3f} to {high:.3f})" if known else "")
    ends = f" ({_seconds(effect.low)} to {_seconds(effect.high)})" if known else ""
    return f"{_seconds(effect.value)}{ends} {effect.unit.removeprefix('s ')}"


def _seconds(value: float | None) -> str:
    assert value is not None
    return ("-" if value < 0 else "") + show(abs(value), Unit.SECONDS)


def _exact(result: EvidenceResult) -> str:
    metric = metrics()[result.evidence.quantity]
    if result.exact is None:
        return result.reason or ""
    value, reference = (_plain(number, metric.unit) for number in (result.exact.value, result.exact.reference))
    held = result.verdict is Verdict.SUPPORTED
    sign = SIGNS[result.evidence.relation]
    return f"{metric.label} {value} {sign if held else f'not {sign}'} {reference}"


def _plain(value: float, unit: Unit) -> str:
    """Integers up to a million in full, larger numbers and fractions in short."""
    if unit is Unit.FRACTION:
        return f"{value:.2g}"
    return f"{value:.0f}" if math.fabs(value) < 1e6 else show(value, unit)


def _open(judgments: Sequence[Judgment]) -> Iterator[str]:
    for judgment in judgments:
        if (line := command(judgment)) is not None:
            yield f"{judgment.claim.id}: {judgment.verdict}; to measure it: {line}"
        if unexpected(judgment):
            shown = _verdict(judgment.verdict, judgment.margin)
            yield f"{judgment.claim.id}: {shown}, but {judgment.claim.expected} was expected"
    for reason in dict.fromkeys(f.reason for j in judgments for f in j.results if f.reason):
        yield f"note: {reason}"


def _details(judgment: Judgment) -> Iterator[str]:
    """A claim with all of its evidence, as Markdown items below its own."""
    claim = judgment.claim
    yield f"**{claim.id}**: {claim.statement} *Source: {claim.source}.*"
    for result in judgment.results:
        yield f"  - {_verdict(result.verdict, result.evidence.margin)}: {_sentence(result)}"
    if judgment.reason:
        yield f"  - {judgment.reason}"
    if line := command(judgment):
        yield f"  - to measure it: `{line}`"
    if judgment.records:
        yield f"  - records: {', '.join(judgment.records)}"


COMPARISONS = {
    Relation.greater: "greater than",
    Relation.less: "less than",
    Relation.equal: "equal to",
    Relation.same: "same as",
    Relation.not_greater: "not greater than",
    Relation.grows: "grows over",
}


def _sentence(result: EvidenceResult) -> str:
    evidence = result.evidence
    other = evidence.over if evidence.relation is Relation.grows else result.against
    what = f"{result.subject}: {evidence.quantity} {COMPARISONS[evidence.relation]} {other}"
    if evidence.times != 1.0:
        what += f", {evidence.times:g} times"
    if result.reason:
        return f"{what}: {result.reason}"
    if result.effect is not None:
        margin = (
            f", margin {_percent(evidence.margin)}"
            if evidence.relation in (Relation.same, Relation.not_greater)
            else ""
        )
        return f"{what}{margin}: {_effect(result.effect)}, p = {result.effect.p:.2g}"
    return f"{what}: {_exact(result)}"


def _plain_judgment(judgment: Judgment) -> dict[str, Any]:
    """A judgment as plain values."""
    return {
        "claim": judgment.claim.id,
        "statement": judgment.claim.statement,
        "source": judgment.claim.source,
        "verdict": str(judgment.verdict),
        "margin": judgment.margin,
        "expected": judgment.claim.expected,
        "setting": judgment.setting,
        "reason": judgment.reason,
        "results": dataclasses.asdict(judgment)["results"],
        "records": judgment.records,
        "reproduce": command(judgment),
    }
