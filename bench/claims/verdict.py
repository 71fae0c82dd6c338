"""Verdicts on claims: pure functions of claim files and records.

A claim is supported if all of its evidence is, and refuted if the contrary of one piece was shown. If a piece was shown
to be smaller than its margin, so is the claim. Else it is unclear. Holm's method keeps the error rate of a claim's
timed tests at 5% for each of these three verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.claims.claim import Claim, Evidence, Expected, Relation
from bench.claims.comparisons import exacts, partners, ratios
from bench.claims.growth import growth
from bench.claims.pairing import ABSENT, best_measured, selects
from bench.claims.result import EvidenceResult, Test, Verdict, adjusted
from bench.records.conditions import alike, distinct, shared, telling
from bench.records.record import TRAIN, Record, Status

CONTRADICTIONS = {
    Expected.supported: (Verdict.REFUTED, Verdict.NEGLIGIBLE),
    Expected.refuted: (Verdict.SUPPORTED,),
}
"""Verdicts by the expectation that they contradict. What was expected to matter and does not is no success; what was
expected to be refuted and does not matter is no failure."""


@dataclass(frozen=True)
class Judgment:
    """A claim's verdict in one setting."""

    claim: Claim
    verdict: Verdict
    setting: str
    """Model, dtype, device: what all compared cells share."""
    results: tuple[EvidenceResult, ...] = ()
    reason: str | None = None

    @property
    def margin(self) -> float | None:
        """Of a negligible effect: what it was shown to be smaller than, as a fraction."""
        margins = [one.evidence.margin for one in self.results if one.verdict is Verdict.NEGLIGIBLE]
        return max(margins) if self.verdict is Verdict.NEGLIGIBLE else None

    @property
    def records(self) -> tuple[str, ...]:
        """Ids of the records behind it."""
        return tuple(sorted({record for result in self.results for record in result.records}))


def judge_all(claims: Sequence[Claim], records: Sequence[Record]) -> list[Judgment]:
    """Every claim, in every setting for which there are records."""
    unique = distinct(records)
    return [judgment for claim in claims for judgment in judge(claim, unique)]


def judge(claim: Claim, records: Sequence[Record]) -> list[Judgment]:
    """One claim: one judgment for each setting, or a single one that says why there is none."""
    if claim.blocked_by is not None:
        return [Judgment(claim, Verdict.BLOCKED, "", reason=claim.blocked_by)]
    assert claim.about is not None
    usable = [record for record in records if record.status is Status.OK]
    axes = {*claim.pool_over, *(evidence.over for evidence in claim.evidence if evidence.over)}
    found = alike((record for record in usable if selects(claim.about, record)), axes)
    if not found:
        missing = " or ".join(claim.about.method)
        where = "".join(f", {key} {value}" for key, value in claim.about.where.items())
        return [Judgment(claim, Verdict.NO_CELLS, "", reason=f"{ABSENT} {missing}{where}")]
    apart = [key for key in telling([shared(group) for group in found]) if key not in axes]
    labels = [group[0].cell.model for group in found]
    if len(set(labels)) == len(labels):  # the name of the model is enough
        apart = [key for key in apart if not key.startswith("model.")]
    return [_judge_group(claim, group, usable, apart) for group in found]


def _judge_group(claim: Claim, group: Sequence[Record], usable: Sequence[Record], apart: Sequence[str]) -> Judgment:
    assert claim.about is not None
    trials = [trial for evidence in claim.evidence for trial in _trials(evidence, claim.about.state, group, usable)]
    tests = [trial for trial in trials if isinstance(trial, Test)]
    family = iter(adjusted([test.p for test in tests]))
    results = [trial.result(next(family)) if isinstance(trial, Test) else trial for trial in trials]
    verdicts = {result.verdict for result in results}
    if Verdict.REFUTED in verdicts:
        verdict = Verdict.REFUTED
    elif verdicts == {Verdict.SUPPORTED}:
        verdict = Verdict.SUPPORTED
    elif Verdict.NEGLIGIBLE in verdicts:
        verdict = Verdict.NEGLIGIBLE
    else:
        verdict = Verdict.UNCLEAR
    return Judgment(claim, verdict, _setting(group, apart), tuple(results))


def _trials(
    evidence: Evidence, state: str, group: Sequence[Record], usable: Sequence[Record]
) -> Iterator[Test | EvidenceResult]:
    state = evidence.state or state
    if evidence.phase == TRAIN:  # what was timed with a reference of the cell's own says nothing of the workload's
        group = [record for record in group if record.cell.reference is None] or group
    if evidence.relation is Relation.grows:
        yield from growth(evidence, state, group)
        return
    pairs = [(r, other) for r in best_measured(group, evidence) for other in partners(evidence, state, r, usable)]
    compared = any(not isinstance(other, EvidenceResult) for _, other in pairs)
    for record, other in pairs:
        if not isinstance(other, EvidenceResult):
            yield from (ratios if evidence.timed else exacts)(evidence, state, record, other)
        elif not (compared and str(other.reason).startswith(ABSENT)):
            yield other


def _setting(group: Sequence[Record], apart: Sequence[str]) -> str:
    """What the cells share, and the keys in which this setting differs from the claim's others."""
    first, whole = group[0], shared(group)
    config = first.cell.config
    places = dict.fromkeys(one.processor for one in group)
    told = {"model.dtype", "accelerator" if whole["accelerator"] else "machine"}
    parts = (
        first.cell.model,
        config["model"]["dtype"],
        config["runtime"]["name"],
        config["device"]["name"],
        ", ".join(str(place) for place in places if place is not None) or None,
        *(f"{key} {whole.get(key)}" for key in apart if key not in told),
    )
    return " · ".join(str(part) for part in parts if part is not None)


def command(judgment: Judgment) -> str | None:
    """The command that measures what is unclear or missing."""
    if judgment.verdict not in (Verdict.UNCLEAR, Verdict.NO_CELLS) or not judgment.claim.reproduce:
        return None
    wide = any(result.effect is not None and result.verdict is Verdict.UNCLEAR for result in judgment.results)
    overrides = [*judgment.claim.reproduce, *(["precision=strict"] if wide else [])]
    return f"python -m bench multirun {' '.join(overrides)}"


def unexpected(judgment: Judgment) -> bool:
    """Whether a verdict contradicts the one that the claim's file expects."""
    expected = judgment.claim.expected
    return expected is not None and judgment.verdict in CONTRADICTIONS[expected]
