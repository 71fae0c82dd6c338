"""Settings that later versions added leave the cells of before what they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.claims.claim import Selector
from bench.claims.pairing import selects
from bench.config.compose import compose_multirun
from bench.config.schema import ADDED, Precision, Runtime, Workload
from bench.config.sources import DataConfig, ModelConfig
from bench.errors import UsageError
from bench.gate.baseline import summarize
from bench.gate.compare import check_cell
from bench.gate.rule import Verdict
from bench.records.cell import Cell
from bench.records.conditions import conditions
from bench.records.record import Record
from bench.records.results import CheckedCell
from bench.records.store import Store
from bench.worker.check import check_all
from tests.fakes import make_cell, make_record

WITHOUT_CARD = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
ROOT = Path(__file__).parent.parent


def resolve(*arguments: str) -> list[CheckedCell]:
    (sweep,) = compose_multirun(list(arguments))
    found = check_all(sweep.cells, str)
    assert not [line for line in found if isinstance(line, str)], found
    return [item for item in found if isinstance(item, CheckedCell)]


def given(path: str, value: Any) -> Cell:
    group, _, key = path.partition(".")
    cell = make_cell()
    return dataclasses.replace(cell, config={**cell.config, group: {**cell.config[group], key: value}})


def test_the_records_of_before_are_of_todays_cells() -> None:
    """What ``multirun`` would measure today, with what was added at its value of before, is in the reference folder."""
    there = set(Store(ROOT / "results" / "reference" / "default").read())
    before = ("workload.train_reference=null", "precision.train_pairs=0")
    assert {item.cell.id for item in resolve("precision=standard", *before)} == there


@pytest.mark.parametrize("path", ADDED)
def test_what_was_added_is_at_its_value_by_default(path: str) -> None:
    """The value that a cell has without the setting is the schema's own."""
    group, _, key = path.partition(".")
    kinds = {"workload": Workload, "runtime": Runtime, "precision": Precision, "data": DataConfig, "model": ModelConfig}
    (field,) = [field for field in dataclasses.fields(kinds[group]) if field.name == key]
    assert field.default == ADDED[path]


HOW_TRAINING_IS_TIMED = {"workload.train_reference", "precision.train_pairs"}
"""Neither changes what the gate checks, and how many pairs there are changes nothing that is compared."""


@pytest.mark.parametrize("path", sorted(ADDED.keys() - {"precision.train_pairs"}))
def test_another_value_is_another_cell_of_other_tables(path: str) -> None:
    """It changes the identity, and the conditions under which tables and claims compare."""
    before, other = make_record(make_cell()), make_record(given(path, "something else"))
    assert other.cell_id != before.cell_id
    assert conditions(other) != conditions(before)


@pytest.mark.parametrize("path", sorted(ADDED.keys() - HOW_TRAINING_IS_TIMED))
def test_another_value_is_not_compared_by_the_gate(path: str) -> None:
    """A baseline may be held against runs with its own value alone."""
    before, other = make_record(make_cell()), make_record(given(path, "something else"))
    (checked,) = check_cell(summarize(before), other, None)
    assert checked.verdict is Verdict.INCOMPARABLE
    assert path in str(checked.reason)


@pytest.mark.parametrize("path", ADDED)
def test_a_claim_may_speak_of_it(path: str) -> None:
    """Cells from before the setting have its value too."""

    def of(value: object) -> bool:
        return selects(Selector(method=("lora",), where={path: value}), record)

    record: Record = make_record(make_cell())
    assert of(ADDED[path])
    assert not of("something else")


def test_runtimes_and_checkpointing_are_cells_of_their_own() -> None:
    """Three runtimes are three cells on a card's configuration, two of them run on a CPU; so does recomputing."""
    items = resolve("~study", "method=lora", "runtime=eager,compile,cudagraph")
    assert len({item.cell.id for item in items}) == 3
    assert [item.skip is None for item in items] == [True, True, False]
    assert "cudagraph needs device=cuda" in str(items[2].skip)
    plain, recomputing = resolve("~study", "method=lora", "workload.gradient_checkpointing=off,on")
    assert plain.cell.id != recomputing.cell.id
    assert plain.cell.id == items[0].cell.id


def test_a_prefix_is_skipped_where_activations_are_recomputed() -> None:
    """The reason is in the row, before anything is loaded."""
    (item,) = resolve("~study", "method=prefix_tuning", "workload.gradient_checkpointing=on")
    assert "can't train with gradient checkpointing" in str(item.skip)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["runtime=compile", "runtime.cache=dynamic"], "use runtime.cache=static"),
        (["runtime=compile", "runtime.backend=fast"], "torch.compile knows"),
        (["runtime=tpu"], "unknown runtime"),
        (["runtime.execution=slowly"], "runtime"),
        (["workload.gradient_checkpointing=perhaps"], "gradient_checkpointing"),
        pytest.param(["device=cuda"], "torch sees no CUDA device", marks=WITHOUT_CARD),
    ],
)
def test_what_can_not_run_is_told_in_one_line(arguments: list[str], told: str) -> None:
    """Before the first cell starts."""
    with pytest.raises(UsageError) as caught:
        (sweep,) = compose_multirun(["~study", "method=lora", *arguments])
        for item in check_all(sweep.cells, str):
            raise UsageError(item if isinstance(item, str) else item.skip)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
