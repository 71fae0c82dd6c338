"""Claims: every verdict on records whose truth is known, fairness, and what a claim file may say."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.claims.claim import Claim
from bench.claims.load import load_claims, read_claim
from bench.claims.report import claims_report
from bench.claims.result import Verdict
from bench.claims.verdict import Judgment, command, judge, judge_all, unexpected
from bench.errors import UsageError
from bench.records.cell import Cell
from bench.records.record import CONTROL, MERGED, TRAIN, UNMERGED, Measurement, Pairs, Record, Status
from bench.report.render import render
from tests.fakes import SIZES, known, make_cell, make_record, pairs_at
from tests.reports import printed

SPREAD = (-0.01, -0.006, -0.002, 0.002, 0.006, 0.01)
STRUCTURE = [
    Measurement(f"decode_{name}", 33, state, 1, 128)
    for name in ("operations", "matmuls", "critical_path", "critical_path_matmuls")
    for state in (CONTROL, UNMERGED)
]
GOLDEN = Path(__file__).parent / "data" / "claims.md"
BLOCKED = {"full-forgets", "prompt-unstable", "adapter-effective", "lora-best"}
HEADLINE = {"adapter-serial", "prefix-grows-kv", "lora-merged-zero"}


def claim(tmp_path: Path, evidence: str, about: str = "{method: lora}", more: str = "") -> Claim:
    path = tmp_path / "claim.yaml"
    head = f"statement: It is so.\nsource: a paper\nabout: {about}\nreproduce: study=default\n{more}"
    path.write_text(f"{head}evidence:\n  - {evidence}\n")
    return read_claim(path)


def timed(
    center: float, *, width: float = 1.0, cell: Cell | None = None, arm: str = UNMERGED, phase: str = "decode"
) -> Record:
    logs = [center + width * value for value in SPREAD]
    return known(cell or make_cell(), STRUCTURE, pairs_at(logs, arm=arm, phase=phase))


def verdict(found: list[Judgment]) -> Verdict:
    (one,) = found
    return one.verdict


@pytest.mark.parametrize(
    ("relation", "center", "width", "expected"),
    [
        ("greater", 0.05, 1.0, Verdict.SUPPORTED),
        ("greater", 0.0, 1.0, Verdict.NEGLIGIBLE),
        ("greater", -0.05, 1.0, Verdict.REFUTED),
        ("greater", 0.0, 9.0, Verdict.UNCLEAR),
        ("less", -0.05, 1.0, Verdict.SUPPORTED),
        ("less", 0.0, 1.0, Verdict.NEGLIGIBLE),
        ("less", 0.05, 1.0, Verdict.REFUTED),
        ("less", 0.05, 9.0, Verdict.UNCLEAR),
        ("same", 0.0, 1.0, Verdict.SUPPORTED),
        ("same", 0.015, 1.0, Verdict.SUPPORTED),
        ("same", 0.08, 1.0, Verdict.REFUTED),
        ("same", -0.08, 1.0, Verdict.REFUTED),
        ("same", 0.0, 9.0, Verdict.UNCLEAR),
        ("same", 0.03, 1.0, Verdict.UNCLEAR),
        ("not_greater", -0.2, 1.0, Verdict.SUPPORTED),
        ("not_greater", 0.01, 1.0, Verdict.SUPPORTED),
        ("not_greater", 0.08, 1.0, Verdict.REFUTED),
        ("not_greater", 0.03, 1.0, Verdict.UNCLEAR),
    ],
)
def test_ratios(tmp_path: Path, relation: str, center: float, width: float, expected: Verdict) -> None:
    """Each relation to the control, where the truth is plain and where the interval is too wide to tell."""
    one = claim(tmp_path, f"{{quantity: decode_ratio, relation: {relation}, compared_to: control}}")
    assert verdict(judge(one, [timed(center, width=width)])) is expected


@pytest.mark.parametrize(
    ("relation", "value", "expected"),
    [
        ("equal", 33, Verdict.SUPPORTED),
        ("equal", 34, Verdict.REFUTED),
        ("greater", 34, Verdict.SUPPORTED),
        ("greater", 33, Verdict.REFUTED),
        ("less", 32, Verdict.SUPPORTED),
        ("less", 33, Verdict.REFUTED),
    ],
)
def test_exact_figures(tmp_path: Path, relation: str, value: int, expected: Verdict) -> None:
    """Counts are compared as they are; no noise excuses a difference of one."""
    one = claim(tmp_path, f"{{quantity: decode_matmuls, relation: {relation}, compared_to: control}}")
    measurements = [
        Measurement("decode_matmuls", value, UNMERGED, 1, 128),
        Measurement("decode_matmuls", 33, CONTROL, 1, 128),
    ]
    assert verdict(judge(one, [known(make_cell(), measurements)])) is expected


def test_formulas(tmp_path: Path) -> None:
    """A sum of products of numbers, facts of the model and other metrics."""
    cell = make_cell("adapter", 16)
    measurements = [
        Measurement("trained_parameters", 2 * 4 * 16 * 256 + 7, UNMERGED),
        Measurement("rank_total", 7, UNMERGED),
    ]
    formula = (
        "{quantity: trained_parameters, relation: equal, compared_to: [[2, layers, size, hidden_size], [rank_total]]}"
    )
    one = claim(tmp_path, formula, "{method: adapter}")
    assert verdict(judge(one, [known(cell, measurements)])) is Verdict.SUPPORTED
    assert verdict(judge(one, [known(cell, measurements[:1])])) is Verdict.UNCLEAR
    off = [Measurement("trained_parameters", 1, UNMERGED), measurements[1]]
    assert verdict(judge(one, [known(cell, off)])) is Verdict.REFUTED


def test_one_piece_that_fails_refutes_the_claim(tmp_path: Path) -> None:
    """Timing that says the same and a structure that does not: the claim needs both."""
    same, equal = (
        "{quantity: decode_ratio, relation: same}",
        "{quantity: decode_matmuls, relation: equal, compared_to: control}",
    )
    two = f"{same}\n  - {equal}"
    one = claim(tmp_path, two)
    record = timed(0.0)
    other = [Measurement("decode_matmuls", 49, UNMERGED, 1, 128), *STRUCTURE]
    assert verdict(judge(one, [record])) is Verdict.SUPPORTED
    assert verdict(judge(one, [dataclasses.replace(record, measurements=tuple(other))])) is Verdict.REFUTED
    assert verdict(judge(one, [dataclasses.replace(record, measurements=())])) is Verdict.UNCLEAR


def test_the_same_seconds_are_not_the_same_computation(tmp_path: Path) -> None:
    """A claim that a ratio is the same rests on the structure too, whether or not its file says so."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: same}")
    longer = [Measurement("decode_critical_path", 34, UNMERGED, 1, 128), *STRUCTURE]
    assert verdict(judge(one, [dataclasses.replace(timed(0.0), measurements=tuple(longer))])) is Verdict.REFUTED


def test_a_closer_look_settles_what_a_first_one_left_open(tmp_path: Path) -> None:
    """Of records that differ only in how much was measured, the one that measured most decides."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: same}")
    strict = incompatibilities(make_cell(), "precision.name", "strict")
    quick, closer = timed(0.0, width=9.0), timed(0.0, cell=strict)
    many = tuple(pairs for _ in range(2) for pairs in closer.pairs)
    closer = dataclasses.replace(closer, pairs=many)
    assert verdict(judge(one, [quick])) is Verdict.UNCLEAR
    assert verdict(judge(one, [quick, closer])) is Verdict.SUPPORTED
    untimed = dataclasses.replace(closer, pairs=tuple(pairs_at(SPREAD, phase="prefill") * 9))
    assert verdict(judge(one, [timed(0.0), untimed])) is Verdict.SUPPORTED


def test_only_points_that_both_cells_have_are_compared(tmp_path: Path) -> None:
    """A record at two prompt lengths beside one at one of them: the shared one decides; none shared is told."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: less, compared_to: {method: adapter}}")
    long = make_cell(prompt_lengths=(64, 128))
    mine = known(long, [], [*pairs_at(SPREAD), *pairs_at(SPREAD, point=(1, 64))])
    assert verdict(judge(one, [mine, timed(0.2, cell=make_cell("adapter", 16))])) is Verdict.SUPPORTED
    (found,) = judge(one, [mine, timed(0.2, cell=make_cell("adapter", 16, prompt_lengths=(512,)))])
    assert "no workload point" in str(found.results[0].reason)


def test_merged_may_be_held_against_unmerged(tmp_path: Path) -> None:
    """Two states of one cell are two things to compare."""
    evidence = "{quantity: decode_ratio, relation: less, compared_to: {method: lora}}"
    one = claim(tmp_path, evidence, "{method: lora, state: merged}")
    pairs = [*pairs_at(SPREAD, arm=MERGED), *pairs_at([0.1 + value for value in SPREAD])]
    assert verdict(judge(one, [known(make_cell(), [], pairs)])) is Verdict.SUPPORTED


def test_every_cell_must_agree(tmp_path: Path) -> None:
    """A claim about a method is about all its sizes that were measured beside one another."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: greater}")
    cells = [make_cell(size=size) for size in (4, 8)]
    assert verdict(judge(one, [timed(0.1, cell=cell) for cell in cells])) is Verdict.SUPPORTED
    assert verdict(judge(one, [timed(0.1, cell=cells[0]), timed(-0.1, cell=cells[1])])) is Verdict.REFUTED


def test_many_looks_need_more_certainty(tmp_path: Path) -> None:
    """Holm within the claim: an effect that alone is just significant is not so among ten that are nothing much."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: greater}")
    weak = timed(0.02, width=2.6)
    alone = judge(one, [weak])
    assert verdict(alone) is Verdict.SUPPORTED
    others = [timed(0.02, width=2.6, cell=make_cell(size=size)) for size in range(20, 30)]
    (crowd,) = judge(one, [weak, *others])
    assert {result.verdict for result in crowd.results} == {Verdict.UNCLEAR}


def test_cells_may_be_judged_across_a_key(tmp_path: Path) -> None:
    """Two models of different depth have a verdict each, or one where the claim says that depth does not matter."""
    cells = [
        make_cell("adapter", 16),
        incompatibilities(make_cell("adapter", 16), "model.settings", {"num_hidden_layers": 2}),
    ]
    records = [timed(0.1, cell=cell) for cell in cells]
    evidence = "{quantity: decode_ratio, relation: greater}"
    apart = claim(tmp_path, evidence, "{method: adapter}")
    assert [found.verdict for found in judge(apart, records)] == [Verdict.SUPPORTED] * 2
    both = claim(tmp_path, evidence, "{method: adapter}", "pool_over: [model.settings.num_hidden_layers]\n")
    (found,) = judge(both, records)
    assert len(found.records) == 2


def test_a_size_without_a_partner_does_not_spoil_the_others(tmp_path: Path) -> None:
    """Of three prefixes one has deep prompts of its size beside it: that comparison decides."""
    evidence = "{quantity: train_peak_bytes, relation: less, compared_to: {method: p_tuning_v2}, equal_size: true}"
    one = claim(tmp_path, evidence, "{method: prefix_tuning}")
    mine = [known(make_cell("prefix_tuning", k), [Measurement("train_peak_bytes", k, UNMERGED)]) for k in (16, 20, 64)]
    partner = known(make_cell("p_tuning_v2", 20), [Measurement("train_peak_bytes", 21, UNMERGED)])
    assert verdict(judge(one, [*mine, partner])) is Verdict.SUPPORTED
    assert verdict(judge(one, mine)) is Verdict.UNCLEAR


def growth(slope: float, noise: float = 1.0, sizes: Iterable[int] = (16, 64, 256)) -> list[Record]:
    """Prefixes whose extra seconds over a control of 1 ms grow by ``slope`` of it a virtual token."""
    records = []
    for number, size in enumerate(sizes):
        spread = SPREAD[number:] + SPREAD[:number]  # processes of different cells have nothing to do with one another
        logs = [math.log1p(0.01 + slope * size + noise * value) for value in spread]
        records.append(known(make_cell("prefix_tuning", size), [], pairs_at(logs)))
    return records


@pytest.mark.parametrize(
    ("slope", "noise", "expected"),
    [
        (1e-3, 1.0, Verdict.SUPPORTED),
        (0.0, 0.3, Verdict.NEGLIGIBLE),
        (-5e-4, 1.0, Verdict.REFUTED),
        (1e-5, 9.0, Verdict.UNCLEAR),
    ],
)
def test_growth(tmp_path: Path, slope: float, noise: float, expected: Verdict) -> None:
    """A slope over sizes is found, shown not to matter, or left open; the effect is the slope itself."""
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: size}"
    (found,) = judge(claim(tmp_path, evidence, "{method: prefix_tuning}"), growth(slope, noise))
    assert found.verdict is expected
    (result,) = found.results
    assert result.effect is not None
    assert result.effect.value == pytest.approx(slope * 1e-3, abs=1e-9)
    assert result.effect.unit == "s per unit of size"


def test_growth_over_batch_and_over_a_key(tmp_path: Path) -> None:
    """The axis may be a workload point, or any number of the configuration, such as the layers."""
    cell = make_cell("prefix_tuning", 20)
    work = {**cell.config["workload"], "batch_sizes": [1, 8]}
    cell = dataclasses.replace(cell, config={**cell.config, "workload": work})
    pairs = [p for b in (1, 8) for p in pairs_at([math.log1p(0.1 * b + v) for v in SPREAD], point=(b, 128))]
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: batch_size}"
    one = claim(tmp_path, evidence, "{method: prefix_tuning}")
    assert verdict(judge(one, [known(cell, [], pairs)])) is Verdict.SUPPORTED

    records = []
    for layers in (2, 4):
        deep = make_cell("adapter", 16)
        model = {**deep.config["model"], "settings": {"num_hidden_layers": layers}}
        deep = dataclasses.replace(deep, config={**deep.config, "model": model})
        records.append(known(deep, [], pairs_at([math.log1p(0.05 * layers + v) for v in SPREAD])))
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: model.settings.num_hidden_layers}"
    one = claim(tmp_path, evidence, "{method: adapter}")
    (found,) = judge(one, records)
    assert found.verdict is Verdict.SUPPORTED
    assert len(found.records) == 2


def test_growth_needs_two_values(tmp_path: Path) -> None:
    """One size has no slope, and that is said."""
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: size}"
    (found,) = judge(claim(tmp_path, evidence, "{method: prefix_tuning}"), growth(1e-3, sizes=[16]))
    assert found.verdict is Verdict.UNCLEAR
    assert "two values" in str(found.results[0].reason)


CHANGES = [
    ({"dtype": "bfloat16"}, "model.dtype (float32, bfloat16)"),
    ({"train_length": 64}, "workload.train_length (128, 64)"),
    ({"threads": 2}, "device.threads (1, 2)"),
]


def incompatibilities(cell: Cell, path: str, value: object) -> Cell:
    group, _, key = path.partition(".")
    return dataclasses.replace(cell, config={**cell.config, group: {**cell.config[group], key: value}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.dtype", "bfloat16"),
        ("model.attention", "eager"),
        ("workload.train_batch_size", 8),
        ("workload.train_length", 64),
        ("workload.train_steps", 99),
        ("workload.gradient_checkpointing", True),
        ("device.threads", 2),
    ],
)
def test_unfair_comparisons_are_refused_by_name(tmp_path: Path, path: str, value: object) -> None:
    """Cells that differ in more than the method are not compared, and what differs is named with both values."""
    evidence = "{quantity: train_peak_bytes, relation: less, compared_to: {method: adapter}}"
    one = claim(tmp_path, evidence)
    mine = known(make_cell(), [Measurement("train_peak_bytes", 1, UNMERGED)])
    cell = make_cell("adapter", 16)
    fair = known(cell, [Measurement("train_peak_bytes", 2, UNMERGED)])
    confounders = known(incompatibilities(cell, path, value), [Measurement("train_peak_bytes", 2, UNMERGED)])
    assert verdict(judge(one, [mine, fair])) is Verdict.SUPPORTED
    (found,) = judge(one, [mine, confounders])
    assert found.verdict is Verdict.UNCLEAR
    assert "not compared" in str(found.results[0].reason)
    assert path in str(found.results[0].reason)
    assert str(value) in str(found.results[0].reason)


def test_the_training_reference_matters_to_training_speeds_alone(tmp_path: Path) -> None:
    """Memory and latency of a record from before there was one are compared; a ratio to another reference is not."""
    mine, old = (make_cell(method, SIZES[method]) for method in ("lora", "adapter"))
    mine = incompatibilities(mine, "workload.train_reference", "full")
    latency = claim(tmp_path, "{quantity: decode_ratio, relation: less, compared_to: {method: adapter}}")
    assert verdict(judge(latency, [timed(0.0, cell=mine), timed(0.2, cell=old)])) is Verdict.SUPPORTED
    more = pairs_at([0.2 + value for value in (*SPREAD, *SPREAD)])
    again = known(incompatibilities(old, "workload.train_reference", "lora"), STRUCTURE, more)
    (found,) = judge(latency, [timed(0.0, cell=mine), timed(0.2, cell=old), again])
    assert len(found.results) == 1  # one cell, measured twice: what measured more counts
    speed = claim(tmp_path, "{quantity: train_ratio, relation: greater, compared_to: {method: adapter}}")
    (found,) = judge(speed, [timed(0.0, cell=mine, phase=TRAIN), timed(0.2, cell=old, phase=TRAIN)])
    assert "workload.train_reference (full, None)" in str(found.results[0].reason)


def test_only_timed_blocks_that_are_compared_must_agree_on_sharing(tmp_path: Path) -> None:
    """Whether latency arms shared weights says nothing of training steps, which were timed on copies."""
    speed = claim(tmp_path, "{quantity: train_ratio, relation: greater, compared_to: {method: adapter}}")
    mine, other = (
        timed(log, cell=make_cell(method, SIZES[method]), phase=TRAIN)
        for method, log in (("lora", 0.0), ("adapter", 0.2))
    )
    shared = [dataclasses.replace(one, shared_weights=True) for one in timed(0.0).pairs]
    mine = dataclasses.replace(mine, pairs=(*mine.pairs, *shared))
    assert verdict(judge(speed, [mine, other])) is Verdict.SUPPORTED
    sharing = dataclasses.replace(
        other, pairs=tuple(dataclasses.replace(one, shared_weights=True) for one in other.pairs)
    )
    (found,) = judge(speed, [mine, sharing])
    assert "shared a set of weights" in str(found.results[0].reason)


def test_another_torch_is_refused_by_name(tmp_path: Path) -> None:
    """A ratio measured with another torch is another experiment."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: less, compared_to: {method: adapter}}")
    other = dataclasses.replace(timed(0.2, cell=make_cell("adapter", 16)), versions={"torch": "2.12.0"})
    (found,) = judge(one, [timed(0.0), other])
    assert found.verdict is Verdict.UNCLEAR
    assert "torch (2.11.0, 2.12.0)" in str(found.results[0].reason)


def test_growth_along_cells_that_differ_otherwise_is_refused(tmp_path: Path) -> None:
    """Three sizes on three dtypes are no line."""
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: size}"
    one = claim(tmp_path, evidence, "{method: prefix_tuning}")
    first, second = growth(1e-3, sizes=[16, 64])
    moved = dataclasses.replace(second, cell=incompatibilities(second.cell, "precision.pairs", 9))
    (found,) = judge(one, [first, dataclasses.replace(moved, cell_id=moved.cell.id)])
    assert found.verdict is Verdict.UNCLEAR
    assert "precision.pairs" in str(found.results[0].reason)


def test_settings_are_judged_apart(tmp_path: Path) -> None:
    """Two dtypes are two experiments with a verdict each."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: greater}")
    half = make_cell(dtype="bfloat16")
    found = judge(one, [timed(0.1), timed(-0.1, cell=half)])
    assert sorted((j.verdict, "bfloat16" in j.setting) for j in found) == [
        (Verdict.REFUTED, True),
        (Verdict.SUPPORTED, False),
    ]


def test_no_cells_and_failed_cells_say_so(tmp_path: Path) -> None:
    """A claim that the records say nothing of has no verdict, and names what to run."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: greater}")
    for records in ([], [timed(0.1, cell=make_cell("adapter", 16))], [make_record(make_cell(), status=Status.OOM)]):
        (found,) = judge(one, records)
        assert found.verdict is Verdict.NO_CELLS
        assert command(found) == "python -m bench multirun study=default"


def test_what_would_settle_an_unclear_claim(tmp_path: Path) -> None:
    """More precision where an interval was too wide; the cells where they were missing; nothing where it is decided."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: same}")
    (wide,) = judge(one, [timed(0.0, width=9.0)])
    assert command(wide) == "python -m bench multirun study=default precision=strict"
    (decided,) = judge(one, [timed(0.0)])
    assert command(decided) is None
    (single,) = judge(one, [dataclasses.replace(timed(0.0), pairs=tuple(pairs_at([0.0])))])
    assert single.verdict is Verdict.UNCLEAR
    assert "an interval needs two" in str(single.results[0].reason)


def test_only_the_contrary_of_what_is_expected_surprises(tmp_path: Path) -> None:
    """A refuted claim is a result; a refuted expectation ends with status 1."""
    plain, bold = (
        claim(tmp_path, "{quantity: decode_ratio, relation: greater}", more=more)
        for more in ("", "expected: supported\n")
    )
    assert not unexpected(judge(plain, [timed(-0.1)])[0])
    assert unexpected(judge(bold, [timed(-0.1)])[0])
    assert not unexpected(judge(bold, [timed(0.1)])[0])
    assert not unexpected(judge(bold, [timed(0.0, width=9.0)])[0])


def test_what_is_too_small_to_matter_is_no_success_and_no_failure(tmp_path: Path) -> None:
    """An effect shown to be less than its margin contradicts an expected support, and no expected refutation."""
    support, refute = (
        claim(tmp_path, "{quantity: decode_ratio, relation: greater}", more=f"expected: {expected}\n")
        for expected in ("supported", "refuted")
    )
    assert unexpected(judge(support, [timed(0.0)])[0])
    assert not unexpected(judge(refute, [timed(0.0)])[0])
    assert unexpected(judge(refute, [timed(0.1)])[0])


def test_a_small_effect_is_told_with_its_margin(tmp_path: Path) -> None:
    """In text and Markdown as "< 2.5%" and "less than 2.5%", in JSON as a verdict with its margin."""
    one = claim(tmp_path, "{quantity: decode_ratio, relation: greater, margin: 0.025}", more="expected: supported\n")
    judgments = judge(one, [timed(0.0)])
    assert "< 2.5% (!)" in printed(claims_report(judgments, details=False))
    assert "claim: less than 2.5%, but supported was expected" in printed(claims_report(judgments, details=False))
    assert "less than 2.5%: lora 8" in render(claims_report(judgments, details=True), "md").decode()
    (plain,) = json.loads(render(claims_report(judgments, details=False), "json"))["claims"]
    assert (plain["verdict"], plain["margin"]) == ("negligible", 0.025)


@pytest.mark.parametrize(("truth", "most"), [(0.01, {Verdict.REFUTED: 0.05}), (0.0, {Verdict.SUPPORTED: 0.06})])
def test_a_word_says_no_more_than_was_found(tmp_path: Path, truth: float, most: dict[Verdict, float]) -> None:
    """Of 400 runs of eight processes that spread by 1%: of what is 1% slower at most 5% are refuted, and of what is no
    slower at most 5%, within chance, are supported. Most say that it is less than 3%."""
    one, rng = claim(tmp_path, "{quantity: decode_ratio, relation: greater}"), random.Random(0)

    def run() -> Verdict:
        return verdict(judge(one, [known(make_cell(), [], pairs_at([rng.gauss(truth, 0.01) for _ in range(8)]))]))

    found = Counter(run() for _ in range(400))
    assert all(found[which] <= share * 400 for which, share in most.items())
    assert found[Verdict.NEGLIGIBLE] + found[Verdict.SUPPORTED] > 300
    assert {*found} <= {Verdict.SUPPORTED, Verdict.REFUTED, Verdict.NEGLIGIBLE, Verdict.UNCLEAR}


@pytest.mark.parametrize(("relation", "told"), [("same", Verdict.REFUTED), ("not_greater", Verdict.REFUTED)])
def test_the_same_seconds_are_the_same_on_average(tmp_path: Path, relation: str, told: Verdict) -> None:
    """One pair of ten that takes twice as long is not seen by the median; what is said to be the same is not then."""
    one = claim(tmp_path, f"{{quantity: decode_ratio, relation: {relation}, compared_to: control}}")
    rare = [
        dataclasses.replace(
            own,
            control_seconds=own.control_seconds * 10,
            arm_seconds=(*own.arm_seconds * 9, own.arm_seconds[0] * 2),
            control_first=(True,) * 10,
        )
        for own in timed(0.0).pairs
    ]
    (found,) = judge(one, [dataclasses.replace(timed(0.0), pairs=tuple(rare))])
    assert found.verdict is told
    assert "mean × 1.1" in printed(claims_report([found], details=False))
    small = claim(tmp_path, "{quantity: decode_ratio, relation: greater}")
    assert verdict(judge(small, [dataclasses.replace(timed(0.0), pairs=tuple(rare))])) is Verdict.UNCLEAR


def test_records_of_two_machines_are_judged_apart(tmp_path: Path) -> None:
    """One cell on two machines has a verdict for each, with the machine in its title, or one that says of both; neither
    record replaces the other. Of two versions of torch the same."""
    evidence = "{quantity: decode_ratio, relation: greater}"
    one = claim(tmp_path, evidence)
    here, there = timed(0.1), dataclasses.replace(timed(-0.1), machine={"processor": "another"})
    found = judge_all([one], [here, there])
    assert {(j.verdict, j.setting.rpartition(" · ")[2]) for j in found} == {
        (Verdict.SUPPORTED, "fake"),
        (Verdict.REFUTED, "another"),
    }
    pooled = claim(tmp_path, evidence, more="pool_over: [machine]\n")
    (both,) = judge_all([pooled], [here, there])
    assert (both.verdict, len(both.results)) == (Verdict.REFUTED, 2)
    assert "fake" in both.setting
    assert "another" in both.setting
    later = dataclasses.replace(timed(-0.1), versions={"torch": "2.12.0"})
    assert sorted(j.verdict for j in judge_all([one], [here, later])) == [Verdict.REFUTED, Verdict.SUPPORTED]


def test_growth_on_two_machines_is_two_lines(tmp_path: Path) -> None:
    """Pooled over machines, the line of each is judged, and one that does not grow is not passed over."""
    evidence = "{quantity: decode_extra_seconds, relation: grows, over: size}"
    one = claim(tmp_path, evidence, "{method: prefix_tuning}", "pool_over: [machine]\n")
    flat = [dataclasses.replace(record, machine={"processor": "another"}) for record in growth(-5e-4)]
    (found,) = judge_all([one], [*growth(1e-3), *flat])
    assert sorted(result.verdict for result in found.results) == [Verdict.REFUTED, Verdict.SUPPORTED]


def test_a_package_that_both_run_on_must_be_the_same(tmp_path: Path) -> None:
    """Two records of peft's that ran on two versions of peft are not compared; ours, which do not run on it, are
    compared with both."""
    evidence = "{quantity: decode_ratio, relation: less, compared_to: {method: vera, implementation: peft}}"
    one = claim(tmp_path, evidence, "{method: lora, implementation: peft}")
    ours = claim(tmp_path, evidence)

    def of(method: str, implementation: str, peft: str, center: float) -> Record:
        cell = dataclasses.replace(make_cell(), method=method, implementation=implementation)
        return dataclasses.replace(timed(center, cell=cell), versions={"torch": "2.11.0", "peft": peft})

    theirs = of("vera", "peft", "0.21.0", 0.1)
    assert verdict(judge_all([one], [of("lora", "peft", "0.21.0", 0.0), theirs])) is Verdict.SUPPORTED
    (apart,) = judge_all([one], [of("lora", "peft", "0.20.0", 0.0), theirs])
    assert "peft (0.20.0, 0.21.0)" in str(apart.results[0].reason)
    assert verdict(judge_all([ours], [of("lora", "peft-verdict", "0.20.0", 0.0), theirs])) is Verdict.SUPPORTED


@given(order=st.permutations(range(3)), copies=st.integers(1, 3))
def test_order_and_copies_change_no_verdict(order: list[int], copies: int) -> None:
    """The same records in any order, some given twice, come out the same."""
    records = golden_records()[:3]
    claims = load_claims()
    shuffled = [records[index] for index in order] * copies
    assert judge_all(claims, shuffled) == judge_all(claims, records)


def test_every_claim_of_the_article_is_there() -> None:
    """Twenty, of which four about quality are for later; the headline three expect support."""
    claims = {one.id: one for one in load_claims()}
    assert len(claims) == 20
    assert {name for name, one in claims.items() if one.blocked_by} == BLOCKED
    assert all(claims[name].expected == "supported" for name in HEADLINE)
    assert claims["lora-parallel-free"].expected == "refuted"


GOOD = {
    "statement": "s",
    "source": "s",
    "about": {"method": "lora"},
    "evidence": [{"quantity": "decode_ratio", "relation": "same"}],
    "reproduce": ["study=default"],
}


def evidence(**changes: object) -> dict[str, object]:
    return {**GOOD, "evidence": [{**GOOD["evidence"][0], **changes}]}  # type: ignore[index, dict-item]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (evidence(quantity="decode_speed"), "evidence.0.quantity"),
        (
            evidence(quantity="train_tokens_per_second", relation="greater", compared_to="control"),
            "evidence.0.quantity",
        ),
        (evidence(relation="faster"), "evidence.0.relation"),
        (evidence(relation="equal"), "evidence.0.relation"),
        (evidence(quantity="decode_matmuls", relation="same", compared_to="control"), "evidence.0.relation"),
        (evidence(quantity="decode_matmuls", relation="equal"), "evidence.0.compared_to"),
        (evidence(quantity="decode_matmuls", relation="equal", compared_to="base"), "evidence.0.compared_to"),
        (evidence(quantity="decode_matmuls", relation="equal", compared_to=float("nan")), "evidence.0.compared_to"),
        (evidence(quantity="token_accuracy", relation="greater", compared_to=0.1), "evidence.0.quantity"),
        (evidence(quantity="train_cuda_allocated_bytes", relation="less", compared_to=1), "evidence.0.quantity"),
        (evidence(quantity="decode_matmuls", relation="equal", compared_to=[["depth", 2]]), "evidence.0.compared_to"),
        (evidence(compared_to={"method": "lorax"}), "evidence.0.compared_to.method"),
        (evidence(margin=0.005), "evidence.0.margin"),
        (evidence(margin="wide"), "evidence.0.margin"),
        (evidence(times=0), "evidence.0.times"),
        (evidence(state="melted"), "evidence.0.state"),
        (evidence(over="size"), "evidence.0.relation"),
        (evidence(quantity="decode_extra_seconds", relation="grows", over="depth"), "evidence.0.over"),
        (evidence(code="print()"), "evidence.0.code"),
        ({**GOOD, "about": {"method": "lorax"}}, "about.method"),
        ({**GOOD, "about": {"method": "lora", "where": {"method.rnk": 2}}}, "about.where.method.rnk"),
        ({**GOOD, "about": {"method": "lora", "where": {"modle.dtype": 2}}}, "about.where.modle.dtype"),
        ({**GOOD, "about": {"method": "lora", "state": "aa"}}, "about.state"),
        ({**GOOD, "pool_over": ["model.depth"]}, "pool_over.model.depth"),
        ({**GOOD, "evidence": []}, "evidence"),
        ({key: value for key, value in GOOD.items() if key != "statement"}, "statement"),
        ({key: value for key, value in GOOD.items() if key != "reproduce"}, "reproduce"),
        ({**GOOD, "expected": "maybe"}, "expected"),
        ([1, 2], "the top level"),
    ],
)
def test_a_wrong_claim_file_names_itself_and_the_key(tmp_path: Path, content: object, key: str) -> None:
    """One line, whatever is wrong: unknown quantity, selector, margin or key."""
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError) as refused:
        load_claims(tmp_path)
    assert str(path) in str(refused.value)
    assert key in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "statement: [",
        "a: !!python/object/apply:os.getcwd []",
        "\x00",
        "source: 2024-13-45",
        "about: &a {where: *a}",
    ],
)
def test_a_claim_file_is_data(tmp_path: Path, text: str) -> None:
    """What is no plain YAML is refused; nothing in it is run."""
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"wrong\.yaml"):
        load_claims(tmp_path)


def test_a_folder_without_claims_is_refused(tmp_path: Path) -> None:
    """As is one that is not there."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="--claims"):
            load_claims(folder)


def golden_records() -> list[Record]:
    """A LoRA that is the base once merged, and a full fine-tuning with an adapter beside it."""

    def both(center: float, arm: str) -> list[Pairs]:
        logs = [center + value for value in SPREAD]
        return [p for phase in ("prefill", "decode") for p in pairs_at(logs, phase=phase, arm=arm)]

    counts = {"operations": 210, "matmuls": 33, "critical_path": 90, "critical_path_matmuls": 21, "flops": 4_000_000}
    unmerged = {**counts, "operations": 240, "matmuls": 49, "critical_path": 98, "critical_path_matmuls": 25}
    measurements = [
        Measurement(f"{phase}_{name}", values[name], state, 1, 128)
        for phase in ("prefill", "decode")
        for state, values in ((CONTROL, counts), (MERGED, counts), (UNMERGED, unmerged))
        for name in counts
    ]
    lora = known(
        make_cell(),
        [*measurements, Measurement("merge_error", 2e-7, MERGED)],
        [*both(0.07, UNMERGED), *both(0.001, MERGED)],
    )
    adapter = make_cell("adapter", 16)
    slow = known(
        adapter,
        [
            Measurement("decode_critical_path_matmuls", 21, CONTROL, 1, 128),
            Measurement("decode_critical_path_matmuls", 37, UNMERGED, 1, 128),
            Measurement("checkpoint_bytes", 300, UNMERGED),
        ],
        pairs_at([0.2 + value for value in SPREAD]),
    )
    full = known(
        make_cell("full", None),
        [
            Measurement("trained_parameters", 1000, UNMERGED),
            Measurement("shipped_parameters", 1000, UNMERGED),
            Measurement("total_parameters", 1000, UNMERGED),
            Measurement("checkpoint_bytes", 4000, UNMERGED),
        ],
    )
    return [lora, slow, full]


def test_the_report_is_as_it_was() -> None:
    """The Markdown of a few verdicts, word for word: a change of it is seen, and meant."""
    assert (
        render(claims_report(judge_all(load_claims(), golden_records()), details=True), "md").decode()
        == GOLDEN.read_text()
    )


def test_the_json_report_holds_what_the_other_shows() -> None:
    """Each claim with verdict, effect, interval, metric, records and what to run; parsed, it is plain data."""
    judgments = judge_all(load_claims(), golden_records())
    report = json.loads(render(claims_report(judgments, details=False), "json"))
    by_id = {one["claim"]: one for one in report["claims"]}
    assert len(by_id) == 20
    merged = by_id["lora-merged-zero"]
    assert merged["verdict"] == "supported"
    assert merged["records"] == [make_cell().id]
    effect = merged["results"][0]["effect"]
    assert effect["low"] < effect["value"] < effect["high"]
    assert by_id["qlora-thrifty"]["reproduce"] == "python -m bench multirun study=claims"
    assert by_id["lora-best"]["verdict"] == "blocked"


def test_what_people_see() -> None:
    """On a terminal of 80 columns no line of a table is cut, and every claim has its verdict."""
    text = printed(claims_report(judge_all(load_claims(), golden_records()), details=False))
    for word in ("adapter-serial", "supported", "refuted", "no cells", "blocked", "× 1.00", "…"):
        assert (word in text) == (word != "…")


def test_a_claim_speaks_of_our_own_methods_unless_it_says_otherwise(tmp_path: Path) -> None:
    """A cell of the same method in other code is not among those meant, and is where it is named."""
    theirs = dataclasses.replace(make_cell(), implementation="peft")
    records = [timed(0.05), timed(-0.05, cell=theirs)]
    evidence = "{quantity: decode_ratio, relation: greater, compared_to: control}"
    assert verdict(judge_all([claim(tmp_path, evidence)], records)) is Verdict.SUPPORTED
    about = "{method: lora, implementation: peft}"
    assert verdict(judge_all([claim(tmp_path, evidence, about)], records)) is Verdict.REFUTED
