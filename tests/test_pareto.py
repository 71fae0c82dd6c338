"""The front of methods that no other beats on all axes at once, on records whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.records.record import MERGED, UNMERGED, Measurement, Record, Status
from bench.records.store import Store
from bench.report.axes import Value, read_axes
from bench.report.pareto import dominates, pareto_report
from bench.report.render import render
from tests.command import here, refused
from tests.fakes import SIZES, known, make_cell, make_record, pairs_at
from tests.reports import notes, printed

SPREAD = (-0.01, -0.005, 0.0, 0.005, 0.01)
AXES = "trained_parameters,decode_ratio"


def placed(method: str, parameters: int, slower: float, merged: float | None = None) -> Record:
    """A cell with so many trained parameters that decodes so many times as slowly as the base, five processes each."""
    states = {UNMERGED: slower, **({} if merged is None else {MERGED: merged})}
    pairs = [
        own for state, ratio in states.items() for own in pairs_at([math.log(ratio) + d for d in SPREAD], arm=state)
    ]
    counted = [Measurement("trained_parameters", parameters, UNMERGED)]
    counted += [Measurement("resident_parameters", 0, state) for state in states]
    return known(make_cell(method, SIZES[method]), counted, pairs)


def fronts(records: Sequence[Record], axes: str = AXES) -> dict[str, list[str]]:
    """By method, the methods that dominate it."""
    plain = pareto_report(records, read_axes(axes.split(","))).plain
    names = {record.cell_id: record.cell.method for record in records}
    return {row["method"]: sorted(names[cell] for cell in row["dominated_by"]) for row in plain}


def test_the_front_is_what_no_other_beats() -> None:
    """Fewer parameters at more latency stand beside more at less; what is worse in both is dominated, by both."""
    records = [
        placed("prompt_tuning", 10, 1.3),
        placed("lora", 100, 1.1),
        placed("adapter", 200, 1.4),
        placed("p_tuning", 20, 1.35),
    ]
    assert fronts(records) == {
        "prompt_tuning": [],
        "lora": [],
        "adapter": ["lora", "p_tuning", "prompt_tuning"],
        "p_tuning": ["prompt_tuning"],
    }
    (table,) = pareto_report(records, read_axes(AXES.split(","))).tables
    assert [row[0] for row in table.rows] == ["lora", "prompt_tuning", "adapter", "p_tuning"]
    assert {table.rows[number][0] for number, _ in table.best} == {"lora", "prompt_tuning"}
    assert table.rows[2][-1].count(",") == 2
    assert "1.100 ±.0" in table.rows[0][3]


def test_noise_alone_dominates_nobody() -> None:
    """Two methods of equal size whose intervals overlap both stay, whichever estimate is the smaller."""
    assert fronts([placed("lora", 100, 1.100), placed("adapter", 100, 1.101)]) == {"lora": [], "adapter": []}
    assert fronts([placed("lora", 100, 1.1), placed("adapter", 100, 1.2)]) == {"lora": [], "adapter": ["lora"]}
    # a certain advantage is not given away for an estimate that is a hair worse
    assert fronts([placed("lora", 100, 1.101), placed("adapter", 200, 1.100)])["adapter"] == []


def test_more_is_better_where_it_is() -> None:
    """The axis of a metric of which more is better is turned round."""
    slow, fast = (
        known(
            make_cell(method, SIZES[method]),
            [Measurement("trained_parameters", 5, UNMERGED), Measurement("token_accuracy", accuracy, UNMERGED)],
        )
        for method, accuracy in (("lora", 0.1), ("adapter", 0.2))
    )
    assert fronts([slow, fast], "trained_parameters,token_accuracy") == {"lora": ["adapter"], "adapter": []}


def test_what_is_not_merged_stands_for_itself() -> None:
    """On an axis of merged latency a method without a merged form has the latency with which it serves, and says so."""
    records = [placed("lora", 100, 1.2, merged=1.0), placed("adapter", 100, 1.1)]
    assert fronts(records) == {"lora": ["adapter"], "adapter": []}
    assert fronts(records, f"{AXES}@merged") == {"lora": [], "adapter": ["lora"]}
    (table,) = pareto_report(records, read_axes(f"{AXES}@merged".split(","))).tables
    assert "adapter b=16: no merged form, so the unmerged one stands for it" in notes(table)


def test_a_cell_without_a_value_is_named_and_dominates_nobody() -> None:
    """A failed one, or one whose latency was not timed."""
    broken = make_record(make_cell("qlora", 8), status=Status.FAILED)
    untimed = known(make_cell("full", None), [Measurement("trained_parameters", 1, UNMERGED)])
    records = [placed("lora", 100, 1.1), broken, untimed]
    assert fronts(records) == {"lora": []}
    (table,) = pareto_report(records, read_axes(AXES.split(","))).tables
    assert "full: not compared: it has no decode_ratio" in notes(table)
    assert "qlora r=8: not compared: it has no trained_parameters" in notes(table)


def test_cells_of_other_conditions_have_a_front_of_their_own() -> None:
    """Two models are two tables."""
    other = known(
        make_cell("adapter", 16, model="gpt2"), placed("adapter", 1, 1.0).measurements, placed("adapter", 1, 1.0).pairs
    )
    report = pareto_report([placed("lora", 100, 1.1), other], read_axes(AXES.split(",")))
    assert len(report.tables) == 2
    assert all(row["front"] for row in report.plain)


VALUES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2)).map(lambda own: Value(own[0], own[0] - own[1], own[0] + own[1])),
    min_size=3,
    max_size=3,
)


@given(VALUES, VALUES, VALUES)
def test_dominance_is_an_order(one: list[Value], two: list[Value], three: list[Value]) -> None:
    """Nothing dominates itself or what dominates it, and there is no circle: somebody is always on the front."""
    assert not dominates(one, one)
    assert not (dominates(one, two) and dominates(two, one))
    assert not (dominates(one, two) and dominates(two, three) and dominates(three, one))


@pytest.mark.parametrize(
    ("axes", "says"),
    [
        ("decode_ratio", "two axes at least"),
        ("decode_ratio,decode_ratio", "two axes at least"),
        ("decode_ratio,train_ratoi", "unknown metric 'train_ratoi'; did you mean 'train_ratio'?"),
        ("decode_ratio,total_parameters", "neither more nor less"),
        ("decode_ratio,train_tokens_per_second", "minutes apart"),
        ("decode_ratio@served,trained_parameters", "unmerged or merged"),
        ("decode_ratio,device_energy", "unknown metric"),
        ("loss,merge_error", "no record has all of loss, merge_error"),
    ],
)
def test_axes_that_can_not_be_are_one_line(tmp_path: Path, axes: str, says: str) -> None:
    """With status 2, before anything is printed."""
    Store(tmp_path).write(placed("lora", 100, 1.1))
    refused(here("pareto", str(tmp_path), "--axes", axes), says)


def test_the_command_prints_and_writes(tmp_path: Path) -> None:
    """A table that fits 80 columns, and the same for a program."""
    for method, size in SIZES.items():
        Store(tmp_path).write(make_record(make_cell(method, size)))
    done = here("pareto", str(tmp_path))
    assert (done.status, done.stderr) == (0, "")
    assert "on the front" in " ".join(done.stdout.split())
    assert max(map(len, printed(pareto_report(list(Store(tmp_path).read().values()))).splitlines())) <= 80
    rows = json.loads(here("pareto", str(tmp_path), "-f", "json").stdout)
    assert {row["method"] for row in rows} == set(SIZES)
    assert any(row["front"] for row in rows)
    for row in rows:
        assert row["front"] == (row["dominated_by"] == [])
        assert row["axes"]["decode_ratio"]["low"] < row["axes"]["decode_ratio"]["high"]
    header = here("pareto", str(tmp_path), "-f", "csv").stdout.splitlines()[0]
    assert header.startswith("table,cell,method,size,front,dominated_by,trained_parameters,")
    assert b"| dominated by" in render(pareto_report(list(Store(tmp_path).read().values())), "md")
