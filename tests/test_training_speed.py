"""Training speed relative to a reference that is timed in turn: what is timed, what is told where it can't be."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench.claims.claim import Claim, Evidence, Relation, Selector
from bench.claims.load import load_claims
from bench.claims.result import Verdict
from bench.claims.validate import problems
from bench.claims.verdict import judge
from bench.config.compose import compose_run
from bench.errors import UsageError
from bench.records.cell import Reference
from bench.records.record import TRAIN, UNMERGED, Measurement, Missing, Pairs, Record
from bench.records.results import LatencySamples
from bench.report.comparison import comparison_tables
from bench.report.frame import frame
from bench.report.records import records_report
from bench.runner.local import lacking_training
from bench.worker import training
from bench.worker.probes import measure_metrics
from bench.worker.training import training_pairs
from bench.workload.models import load_model
from bench.workload.plan import Plan, read_plan
from methods.adalora import Adalora
from methods.full import Full
from tests.children import modules_to_read
from tests.command import SMALL
from tests.fakes import SIZES, make_cell, make_record
from tests.reports import notes, printed

STEPS = (4, 128)
"""Batch and length of a training step in the fake cells."""


def plan_of(*arguments: str) -> Plan:
    (config,) = compose_run([*arguments, *SMALL, "precision.train_pairs=3"]).cells
    return read_plan(config)


def timed(plan: Plan, peak_bytes: int = 0) -> Pairs | Missing:
    """What one replicate finds on the plan's small model."""
    base = load_model(plan.model, "cpu", 0)
    found = training_pairs(plan, base, peak_bytes, share=False, process=0, rng=random.Random(0))
    (one,) = [*found.pairs, *found.missing]
    return one


def test_steps_of_both_are_timed_in_turn_and_the_base_stays() -> None:
    """As many pairs as asked for, of blocks of several steps; a reference that trains the base trains a copy of it."""
    plan = plan_of("method=lora")
    assert isinstance(plan.train_reference, Full)
    base = load_model(plan.model, "cpu", 0)
    before = [parameter.clone() for parameter in base.parameters()]
    (pairs,) = training_pairs(plan, base, 0, share=False, process=2, rng=random.Random(0)).pairs
    assert (pairs.process, pairs.phase, pairs.arm, pairs.point) == (2, TRAIN, UNMERGED, (1, 16))
    assert len(pairs.arm_seconds) == len(pairs.control_seconds) == 3
    assert pairs.steps_per_block >= 2
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))


def test_the_reference_has_its_own_schedule_and_rate() -> None:
    """It is the method of that name as its file has it, with what the file takes from the workload."""
    plan = plan_of("method=lora", "workload.train_reference=adalora")
    assert plan.train_reference == Adalora(total_steps=3)
    assert plan.train_reference_learning_rate == 1e-3
    assert isinstance(timed(plan), Pairs)


@pytest.mark.parametrize(
    ("arguments", "method"),
    [
        (["method=full"], None),  # itself
        (["method=lora", "workload.train_reference=null"], None),
        (["method=lora", "precision.train_pairs=0"], None),
        (["method=lora", "method@reference=adapter"], "adapter"),
        (["method=lora", "method@reference=adapter", "precision.train_pairs=0"], "adapter"),
    ],
)
def test_what_training_is_timed_with(arguments: Sequence[str], method: str | None) -> None:
    """Not with itself; a reference of the cell's own comes before the workload's."""
    (config,) = compose_run(["precision.train_pairs=3", *arguments]).cells
    reference = read_plan(config).train_reference
    assert (reference and reference.name) == method


def test_a_record_has_the_packages_of_the_training_reference(tmp_path: Path) -> None:
    """The ratio depends on them; what the child returns is read without torch."""
    plain = ["method=adapter", *SMALL, "precision.train_pairs=3"]
    (config,) = compose_run([*plain, "workload.train_reference=peft_lora"]).cells
    found = measure_metrics(config, str(tmp_path), lambda *_, **__: None)
    assert found.metadata["packages"] == ["peft"]
    assert modules_to_read(found) <= {"bench.records.record", "bench.records.results"}


def test_what_only_some_processes_could_time_is_a_warning() -> None:
    """Each process decides by the memory that is free then: a ratio of five of six is a ratio, and says so."""
    lacking = Missing("train_ratio", UNMERGED, "they do not fit")
    decode = make_record(make_cell()).pairs_of("decode")
    trains = list(trained("lora", [1.5, 1.6]).pairs_of(TRAIN))
    assert lacking_training(LatencySamples([*decode, *trains], missing=[lacking])) == (
        [],
        ["train_ratio is of 2 of 3 processes: they do not fit"],
    )
    assert lacking_training(LatencySamples(decode, missing=[lacking])) == ([lacking], [])


def test_an_unknown_reference_is_refused_by_name() -> None:
    """Before torch is loaded."""
    with pytest.raises(UsageError, match=r"workload\.train_reference=ful: unknown method; did you mean 'full'\?"):
        compose_run(["workload.train_reference=ful"])


def test_what_does_not_fit_is_missing_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little memory for two trainings leaves the ratio out, names the setting, and costs nothing else."""
    asked: list[int] = []
    monkeypatch.setattr(training, "fits", lambda needed, _device: bool(asked.append(needed)))
    found = timed(plan_of("method=lora"), peak_bytes=1000)
    assert isinstance(found, Missing)
    assert found.metric == "train_ratio"
    assert "do not fit" in found.reason
    assert "workload.train_reference" in found.reason
    weights = sum(p.numel() * 4 for p in load_model(plan_of().model, "cpu", 0).parameters())
    assert 2000 + 3 * weights <= asked[0] < 2000 + 3.2 * weights  # buffers too


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("full"), "card"),
        (training.MethodError("no such layer"), "no such"),
        (training.Diverged("the training loss became nan"), "nan"),
    ],
)
def test_a_reference_that_can_not_train_is_missing(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    """A card that is full after all, or a reference that does not take the model: a reason, and the cell goes on."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Full, "_attach", fail)
    found = timed(plan_of("method=lora"))
    assert isinstance(found, Missing)
    assert words in found.reason


def trained(method: str, ratios: Sequence[float], seconds: float = 0.5) -> Record:
    """A cell whose processes trained so many times as fast as full fine-tuning, whose step took ``seconds``."""
    cell = make_cell(method, SIZES[method])
    cell = dataclasses.replace(
        cell, config={**cell.config, "workload": {**cell.config["workload"], "train_reference": "full"}}
    )
    record = make_record(cell)
    pairs = [
        Pairs(number, TRAIN, UNMERGED, *STEPS, 2, 1, (seconds,), (seconds / ratio,), (True,), shared_weights=False)
        for number, ratio in enumerate(ratios)
    ]
    own = () if ratios else (Measurement("train_ratio", 1.0, UNMERGED),)
    return dataclasses.replace(record, pairs=(*record.pairs, *pairs), measurements=(*record.measurements, *own))


def test_the_table_has_a_ratio_with_an_interval() -> None:
    """Tokens per second over the reference's, which shows its own; the best are those that can't be told apart."""
    records = [
        trained("full", []),
        trained("lora", [1.5, 1.52, 1.48], 0.5),
        trained("adapter", [1.46, 1.5, 1.53], 0.25),
        trained("qlora", [0.8, 0.81, 0.79], 0.5),
    ]
    (table,) = comparison_tables(records)
    (column,) = [number for number, column in enumerate(table.columns) if column.name == "train tok/s"]
    assert table.columns[column].unit == "× full"
    shown = {row[0]: row[column] for row in table.rows}
    assert shown["lora"].startswith("1.500 ±.0")
    assert shown["qlora"].startswith("0.800 ±.0")
    # 4 x 128 tokens in the median of 0.5, 0.25 and 0.5 s
    assert shown["full"] == "1024 tok/s"
    assert shown["control"] == ""
    assert {table.rows[row][0] for row, where in table.best if where == column} == {"lora", "adapter"}
    assert any("timed in turn with each row" in note and "1024 to 2048 tok/s" in note for note in notes(table))
    assert not any("without an interval" in note for note in notes(table))
    row = frame([records[1]]).set_index("state").loc[UNMERGED]
    assert row["train_step_seconds"] == pytest.approx(0.5 / 1.5)  # of the same blocks
    assert row["train_ratio_low"] < 1.5 < row["train_ratio_high"]
    assert row["train_tokens_per_second"] == pytest.approx(512 / (0.5 / 1.5), rel=1e-6)


def test_records_from_before_show_what_they_have() -> None:
    """Tokens per second that were measured once a cell, with the note that says so."""
    (table,) = comparison_tables([make_record(make_cell("adapter", 16)), make_record(make_cell())])
    (column,) = [column for column in table.columns if column.name == "train tok/s"]
    assert column.unit == ""
    assert any("without an interval" in note for note in notes(table))


def faster(*records: Record) -> Verdict:
    """What the claim that PEFT trains faster comes to."""
    (claim,) = [one for one in load_claims() if one.id == "peft-trains-faster"]
    (judgment,) = judge(claim, records)
    return judgment.verdict


def test_a_claim_rests_on_the_ratio() -> None:
    """More tokens a second in every process support it, fewer refute it, and a thousandth more is negligible."""
    lora = trained("lora", [1.5, 1.52, 1.48])
    assert faster(lora, trained("adapter", [1.2, 1.21, 1.22])) is Verdict.SUPPORTED
    assert faster(lora, trained("qlora", [0.8, 0.81, 0.79])) is Verdict.REFUTED
    assert faster(trained("lora", [1.001, 0.999, 1.002, 0.998])) is Verdict.NEGLIGIBLE


def test_training_beside_a_reference_of_the_cells_own_is_no_evidence() -> None:
    """Its ratio is to that reference and not to full fine-tuning."""
    record = trained("lora", [1.5, 1.52, 1.48])
    cell = dataclasses.replace(record.cell, reference=Reference("lora", "peft", 8))
    beside = dataclasses.replace(record, cell=cell, cell_id=cell.id)
    assert faster(beside) is Verdict.UNCLEAR
    assert faster(beside, trained("adapter", [1.2, 1.21, 1.22])) is Verdict.SUPPORTED
    assert pd.isna(frame([dataclasses.replace(record, cell=cell)])["train_ratio"]).all()


def test_training_is_compared_with_no_control() -> None:
    """The untouched base does not train: a claim file that says so is refused with a way out."""
    evidence = Evidence("train_ratio", Relation.greater, "control")
    (problem,) = problems(Claim("s", "s", Selector(("lora",)), (evidence,), ("study=claims",)))
    assert problem[0] == "evidence.0.compared_to"
    assert "workload.train_reference" in problem[1]


def test_nothing_is_cut_on_a_narrow_terminal() -> None:
    """Three ratios with intervals and the longest names fit 80 columns: what is too wide is wrapped between words."""
    records = [trained(method, [] if method == "full" else [1.5, 1.52, 1.48]) for method in SIZES]
    report = records_report(records)
    shown = printed(report)
    assert max(map(len, shown.splitlines())) <= 80
    for row in report.tables[0].rows:
        for cell in row[1:8]:
            assert all(word in shown for word in cell.split())
    assert shown.count("× control") == 2
