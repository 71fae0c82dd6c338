"""Verdicts on claims: pure functions of claim files and records.

A claim is supported where all of its evidence is, refuted where one piece is, and unclear otherwise. Tests that rest on
a clock are held to 5% within the claim's family by Holm's method, those that support and those that refute.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.claims.claim import Claim, Evidence, Relation
from bench.claims.comparisons import exacts, partners, ratios
from bench.claims.finding import Finding, Test, Verdict
from bench.claims.growth import growth
from bench.claims.pairing import ABSENT, best_measured, selects
from bench.records import stats
from bench.records.conditions import context, differing
from bench.records.record import Record, Status

TOLD = ("model.dtype", "machine", "accelerator")
"""Keys that every setting's title tells anyhow."""


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
    axes = {*claim.across, *(evidence.over for evidence in claim.evidence if evidence.over)}
    groups: dict[str, list[Record]] = {}
    for record in usable:
        if selects(claim.about, record):
            groups.setdefault(json.dumps(_without(context(record), axes), sort_keys=True), []).append(record)
    if not groups:
        missing = " or ".join(claim.about.method)
        where = "".join(f", {key} {value}" for key, value in claim.about.where.items())
        return [Judgement(claim, Verdict.NO_CELLS, "", reason=f"{ABSENT} {missing}{where}")]
    found = [groups[key] for key in sorted(groups)]
    contexts = [_without(context(group[0]), axes) for group in found]
    apart = [key for key in differing(contexts) if not key.endswith(".name")]
    labels = [group[0].cell.model for group in found]
    if len(set(labels)) == len(labels):  # the model's name says it all
        apart = [key for key in apart if not key.startswith("model.")]
    return [_judge_group(claim, group, usable, apart) for group in found]


def _judge_group(claim: Claim, group: Sequence[Record], usable: Sequence[Record], apart: Sequence[str]) -> Judgement:
    assert claim.about is not None
    trials = [trial for evidence in claim.evidence for trial in _trials(evidence, claim.about.state, group, usable)]
    tests = [trial for trial in trials if isinstance(trial, Test)]
    p_values = stats.holm([test.p for test in tests])
    contraries = stats.holm([test.contrary for test in tests])
    family = zip(p_values, contraries, strict=True)
    findings = [trial.finding(*next(family)) if isinstance(trial, Test) else trial for trial in trials]
    verdicts = {finding.verdict for finding in findings}
    if Verdict.REFUTED in verdicts:
        verdict = Verdict.REFUTED
    elif verdicts == {Verdict.SUPPORTED}:
        verdict = Verdict.SUPPORTED
    else:
        verdict = Verdict.UNCLEAR
    return Judgement(claim, verdict, _setting(group, apart), tuple(findings))


def _trials(
    evidence: Evidence, state: str, group: Sequence[Record], usable: Sequence[Record]
) -> Iterator[Test | Finding]:
    state = evidence.state or state
    if evidence.relation is Relation.grows:
        yield from growth(evidence, state, group)
        return
    pairs = [(r, other) for r in best_measured(group, evidence) for other in partners(evidence, state, r, usable)]
    compared = any(not isinstance(other, Finding) for _, other in pairs)
    for record, other in pairs:
        if not isinstance(other, Finding):
            yield from (ratios if evidence.timed else exacts)(evidence, state, record, other)
        elif not (compared and str(other.reason).startswith(ABSENT)):
            yield other


def _setting(group: Sequence[Record], apart: Sequence[str]) -> str:
    """What the cells share, with the keys by which this setting differs from the claim's others."""
    first = group[0]
    config, whole = first.cell.config, context(first)
    parts = (
        first.cell.model,
        config["model"]["dtype"],
        config["runtime"]["name"],
        config["device"]["name"],
        first.machine.get("accelerator") or first.machine.get("processor"),
        *(f"{key} {whole.get(key)}" for key in apart if key not in TOLD),
    )
    return " · ".join(str(part) for part in parts if part is not None)


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


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
    return {
        "claim": judgement.claim.id,
        "statement": judgement.claim.statement,
        "source": judgement.claim.source,
        "verdict": str(judgement.verdict),
        "expected": judgement.claim.expected,
        "setting": judgement.setting,
        "reason": judgement.reason,
        "findings": dataclasses.asdict(judgement)["findings"],
        "records": judgement.records,
        "settle": settle(judgement),
    }
