"""How verdicts on claims look: for a terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from bench.claims.claim import Relation
from bench.claims.finding import Effect, Finding, Verdict
from bench.claims.verdict import Judgement, plain, settle, surprising
from bench.probes import figures
from bench.records.figures import Unit
from bench.records.units import show

REPORT_SCHEMA = 1
CLAIM_FORMATS = ("text", "md", "json")
STYLES = {Verdict.SUPPORTED: "green", Verdict.REFUTED: "red", Verdict.UNCLEAR: "yellow"}
SIGNS = {Relation.greater: ">", Relation.less: "<", Relation.equal: "="}
COLUMNS = ("claim", "verdict", "effect (95% interval)", "mechanism")


def print_claims(judgements: Sequence[Judgement], console: Console) -> None:
    """A row a claim and setting, then what to run for those that are open."""
    for setting, here in _by_setting(judgements):
        if setting:
            console.print(setting, style="bold", markup=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
        for header in COLUMNS:
            table.add_column(header, no_wrap=header in ("claim", "verdict"))
        for judgement in here:
            name, verdict, effect, mechanism = _row(judgement)
            style = STYLES.get(judgement.verdict, "dim")
            told = effect or judgement.reason or ""
            table.add_row(Text(name), Text(verdict, style), Text(told), Text(mechanism))
        console.print(table)
        console.print()
    for line in _open(judgements):
        console.print(line, markup=False, soft_wrap=True)


def render_claims(judgements: Sequence[Judgement], format: str) -> bytes:
    """The report as ``md`` or ``json``."""
    if format == "json":
        whole = {"schema_version": REPORT_SCHEMA, "claims": [plain(judgement) for judgement in judgements]}
        return (json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    return "\n".join(_markdown(judgements)).encode() + b"\n"


def _by_setting(judgements: Sequence[Judgement]) -> Iterator[tuple[str, list[Judgement]]]:
    """Settings with their claims; those that have none, for want of cells, come last."""
    settings = dict.fromkeys(judgement.setting for judgement in judgements)
    for setting in sorted(settings, key=lambda setting: not setting):
        yield setting, [judgement for judgement in judgements if judgement.setting == setting]


def _row(judgement: Judgement) -> tuple[str, str, str, str]:
    timed = _telling(judgement, timed=True)
    exact = _telling(judgement, timed=False)
    verdict = str(judgement.verdict) + (" (!)" if surprising(judgement) else "")
    effect = ""
    if timed is not None:
        effect = _effect(timed.effect) if timed.effect else (timed.reason or "")
    return judgement.claim.id, verdict, effect, "" if exact is None else _exact(exact)


def _telling(judgement: Judgement, timed: bool) -> Finding | None:
    """The finding that stands for the others: the first one with the claim's own verdict."""
    found = [finding for finding in judgement.findings if finding.evidence.timed == timed]
    found.sort(key=lambda finding: finding.verdict != judgement.verdict)
    return found[0] if found else None


def _effect(effect: Effect) -> str:
    known = effect.low is not None and effect.high is not None
    if effect.unit == "ratio":
        low, high = effect.low, effect.high
        return f"× {effect.value:.3f}" + (f" ({low:.3f} to {high:.3f})" if known else "")
    ends = f" ({_seconds(effect.low)} to {_seconds(effect.high)})" if known else ""
    return f"{_seconds(effect.value)}{ends} {effect.unit.removeprefix('s ')}"


def _seconds(value: float | None) -> str:
    assert value is not None
    return ("-" if value < 0 else "") + show(abs(value), Unit.SECONDS)


def _exact(finding: Finding) -> str:
    figure = figures()[finding.evidence.quantity]
    if finding.exact is None:
        return finding.reason or ""
    value, reference = (_plain(number, figure.unit) for number in (finding.exact.value, finding.exact.reference))
    held = finding.verdict is Verdict.SUPPORTED
    sign = SIGNS[finding.evidence.relation]
    return f"{figure.label} {value} {sign if held else f'not {sign}'} {reference}"


def _plain(value: float, unit: Unit) -> str:
    """Whole numbers whole, up to a million; what is larger or a fraction, short."""
    if unit is Unit.FRACTION:
        return f"{value:.2g}"
    return f"{value:.0f}" if math.fabs(value) < 1e6 else show(value, unit)


def _open(judgements: Sequence[Judgement]) -> Iterator[str]:
    for judgement in judgements:
        command = settle(judgement)
        if command is not None:
            yield f"{judgement.claim.id}: {judgement.verdict}; to settle it: {command}"
        if surprising(judgement):
            yield f"{judgement.claim.id}: {judgement.verdict}, and {judgement.claim.expected} was expected"
    for reason in dict.fromkeys(f.reason for j in judgements for f in j.findings if f.reason):
        yield f"note: {reason}"


def _markdown(judgements: Sequence[Judgement]) -> Iterator[str]:
    for setting, here in _by_setting(judgements):
        yield f"**{setting or 'Without a verdict'}**\n"
        rows = [_row(judgement) for judgement in here]
        rows = [(name, f"**{v}**", e or (j.reason or ""), m) for (name, v, e, m), j in zip(rows, here, strict=True)]
        yield tabulate(rows, COLUMNS, tablefmt="pipe", disable_numparse=True) + "\n"
        for judgement in here:
            yield from _details(judgement)


def _details(judgement: Judgement) -> Iterator[str]:
    claim = judgement.claim
    yield f"- **{claim.id}**: {claim.statement} *Source: {claim.source}.*"
    for finding in judgement.findings:
        yield f"  - {finding.verdict}: {_sentence(finding)}"
    if judgement.reason:
        yield f"  - {judgement.reason}"
    if command := settle(judgement):
        yield f"  - to settle it: `{command}`"
    if judgement.records:
        yield f"  - records: {', '.join(judgement.records)}"
    yield ""


def _sentence(finding: Finding) -> str:
    evidence = finding.evidence
    what = f"{finding.subject}: {evidence.quantity} {evidence.relation.replace('_', ' ')}"
    what += f" over {evidence.over}" if evidence.over else f" than {finding.against}".replace("same than", "same as")
    what = what.replace("equal than", "equal to").replace("same than", "same as")
    if evidence.times != 1.0:
        what += f", {evidence.times:g} times"
    if finding.reason:
        return f"{what}: {finding.reason}"
    if finding.effect is not None:
        margin = f", margin {evidence.margin:.0%}" if evidence.relation in (Relation.same, Relation.not_greater) else ""
        return f"{what}{margin}: {_effect(finding.effect)}, p = {finding.effect.p:.2g}"
    return f"{what}: {_exact(finding)}"
