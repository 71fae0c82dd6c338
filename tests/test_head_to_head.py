"""A method vs. its reference: what the comparison says of records whose truth is known."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import numpy as np
import pytest

from bench.records import stats
from bench.records.cell import Cell, Reference
from bench.records.record import REFERENCE, TRAIN, UNMERGED, Measurement, Pairs, Record, Status
from bench.records.store import read_paths
from bench.report.comparison import comparison_tables
from bench.report.frame import frame
from bench.report.head_to_head import added_decode, decode, memory, prefill, reference_tables, speed
from tests.command import SMALL, here
from tests.fakes import make_cell, make_record
from tests.reports import notes

POINT = (1, 128)
PEFT = Reference("lora", "peft", 8)
PEFT_SETTINGS = {"_target_": "methods.peft.Peft", "learning_rate": 1e-3, "type": "LORA", "config": {"r": 8}}


def pairs(phase: str, arm: str, ratios: list[float], point: tuple[int, int] = POINT) -> list[Pairs]:
    """One process for each ratio of the arm over what stands in the control's place."""
    return [
        Pairs(number, phase, arm, *point, 1, 1, (0.002,), (0.002 * ratio,), (True,), shared_weights=False)
        for number, ratio in enumerate(ratios)
    ]


def record(cell: Cell | None = None, **of: list[float]) -> Record:
    """A record whose processes have the ratios given for ours, theirs and training steps."""
    cell = dataclasses.replace(cell or make_cell(), reference=PEFT)
    cell = dataclasses.replace(cell, config={**cell.config, "reference": PEFT_SETTINGS})
    made = make_record(cell)
    ours, theirs, train = (of.get(name, [1.0, 1.0]) for name in ("ours", "theirs", "train"))
    timed = [
        p
        for phase in ("prefill", "decode")
        for arm, r in ((UNMERGED, ours), (REFERENCE, theirs))
        for p in pairs(phase, arm, r)
    ]
    mine = {measurement.metric: measurement for measurement in made.measurements if measurement.state == UNMERGED}
    peak = dataclasses.replace(mine["train_peak_bytes"], value=1000) if "train_peak_bytes" in mine else None
    measurements = [r for r in made.measurements if r.metric != "train_peak_bytes"]
    measurements += [
        peak or Measurement("train_peak_bytes", 1000, UNMERGED),
        Measurement("train_peak_bytes", 1250, REFERENCE),
    ]
    return dataclasses.replace(
        made, measurements=tuple(measurements), pairs=(*timed, *pairs(TRAIN, UNMERGED, train, (4, 128)))
    )


def test_ratios_are_ours_over_the_rivals() -> None:
    """Latency is the quotient of what each was against the control, speed the inverse of the step's ratio."""
    one = record(ours=[1.1, 1.1], theirs=[1.21, 1.21], train=[0.8, 0.8])
    for column in (prefill, decode):
        found = column(one, POINT)
        assert found is not None
        assert found.estimate == pytest.approx(1.1 / 1.21)
    found, peak = speed(one, POINT), memory(one, POINT)
    assert found is not None
    assert peak is not None
    assert found.estimate == pytest.approx(1 / 0.8)
    assert (peak.low, peak.estimate, peak.high) == (0.8, 0.8, 0.8)


def test_processes_are_paired() -> None:
    """What a process does to both leaves no spread: the interval is over quotients, not over each side."""
    drift = [1.0, 1.3, 0.8, 1.1]
    one = record(ours=[1.1 * d for d in drift], theirs=[1.2 * d for d in drift])
    found = decode(one, POINT)
    assert found is not None
    assert found.low == pytest.approx(1.1 / 1.2)
    assert found.high == pytest.approx(1.1 / 1.2)


def test_added_latency_is_a_ratio_of_what_each_adds() -> None:
    """6% added against 20% is 0.3, and blank where the reference adds nothing that could be told from noise."""
    found = added_decode(record(ours=[1.06, 1.061, 1.059], theirs=[1.2, 1.201, 1.199]), POINT)
    assert found is not None
    assert found.estimate == pytest.approx(0.3, rel=1e-3)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.3 < found.high
    assert added_decode(record(ours=[1.06, 1.061, 1.059], theirs=[1.01, 0.99, 1.002]), POINT) is None


def test_the_ratio_of_means_covers_the_truth() -> None:
    """Fieller's 95% interval holds the true ratio in about 95 of 100 samples, correlated ones too."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        shared = rng.normal(0, 0.02, 8)
        below = 0.2 + shared + rng.normal(0, 0.01, 8)
        above = 0.06 + shared + rng.normal(0, 0.01, 8)
        found = stats.ratio_of_means(list(above), list(below))
        assert found is not None
        covered += found[1] <= 0.3 <= found[2]
    assert 925 <= covered <= 970


def test_the_ratio_of_means_needs_something_below() -> None:
    """One process gives no interval, nor does a denominator that may be zero."""
    assert stats.ratio_of_means([1.0], [2.0]) is None
    assert stats.ratio_of_means([1.0, 1.1], [0.1, -0.1]) is None


def test_the_grid_marks_where_ours_is_ahead() -> None:
    """An interval that lies on our side of 1 is marked, one that holds 1 or lies beyond it is not."""
    rng = random.Random(0)
    noisy = [math.exp(rng.gauss(0, 0.05)) for _ in range(6)]
    ahead = record(ours=[1.05, 1.051, 1.049], theirs=[1.2, 1.2, 1.2], train=[0.9, 0.901, 0.899])
    level = record(make_cell("adapter", 16), ours=noisy, theirs=noisy[::-1], train=noisy)
    (table,) = reference_tables([ahead, level])
    assert [row[0] for row in table.rows] == ["adapter b=16", "lora r=8"]
    assert "adapter b=16: the reference is lora (peft) r=8" in notes(table)
    assert {(row, column) for row, column in table.best if row == 1} == {(1, column) for column in range(1, 6)}
    assert {(row, column) for row, column in table.best if row == 0} == {(0, 2)}  # memory has no noise
    assert table.rows[1][1].startswith("1.111")
    assert table.rows[1][5].startswith("0.25 (0.2")
    assert any("its reference None" in note for note in notes(table))  # nothing was read of what the fake one trains


def test_a_cell_that_ended_badly_is_not_compared() -> None:
    """What a cell timed before it failed is no comparison: the interval would be over whatever there was."""
    assert reference_tables([dataclasses.replace(record(), status=Status.TIMEOUT, reason="too long")]) == []


def test_the_rival_has_a_row_of_its_own() -> None:
    """In the table and in the exported frame the reference is a method like any other, with its own name."""
    one = record(ours=[1.05, 1.06], theirs=[1.2, 1.21])
    (compared,) = comparison_tables([one])
    rows = {row[0]: row for row in compared.rows if row[2] == REFERENCE}
    assert list(rows) == ["lora (peft)"]
    table = frame([one])
    theirs = table[table["state"] == REFERENCE].iloc[0]
    assert (theirs["method"], theirs["implementation"], theirs["train_peak_bytes"]) == ("lora", "peft", 1250)
    assert theirs["decode_ratio"] == pytest.approx(math.sqrt(1.2 * 1.21))


def test_records_without_a_rival_make_no_grid() -> None:
    """Nothing is compared where nothing was measured beside."""
    assert reference_tables([make_record(make_cell())]) == []


def sweep(folder: Path, *arguments: str) -> Record:
    """One real cell."""
    done = here("run", *arguments, *SMALL, "precision.second_control=off", f"results_dir={folder}")
    assert done.status == 0, done
    (found,) = read_paths([folder])
    return found


@pytest.mark.parametrize(
    ("names", "sharing"),
    [
        (("lora", "peft_lora"), "copy"),
        (("prompt_tuning", "full"), "share"),
        pytest.param(("lora", "peft_lora"), "share", marks=pytest.mark.longer),
        pytest.param(("prompt_tuning", "full"), "copy", marks=pytest.mark.longer),
    ],
)
def test_a_real_cell_measures_both(names: tuple[str, str], sharing: str, tmp_path: Path) -> None:
    """Metrics of both sides, training steps of one against the other, and latency of both against the control: whether
    the arms have weights of their own or share them, of which one side may train what the other freezes."""
    found = sweep(tmp_path, f"method={names[0]}", f"method@reference={names[1]}", f"device.sharing={sharing}")
    known = {(measurement.metric, measurement.state) for measurement in found.measurements}
    for metric in ("trained_parameters", "train_peak_bytes", "checkpoint_bytes", "decode_matmuls", "cache_length"):
        assert {(metric, UNMERGED), (metric, REFERENCE)} <= known
    timed = {(pairs.phase, pairs.arm) for pairs in found.pairs}
    assert {(phase, arm) for phase in ("prefill", "decode") for arm in (UNMERGED, REFERENCE)} < timed
    (train,) = [pairs for pairs in found.pairs if pairs.phase == TRAIN]
    assert (train.arm, train.batch_size, train.prompt_length) == (UNMERGED, 1, 16)
    assert {pairs.shared_weights for pairs in found.pairs} == {sharing == "share"}
    assert {(missing.metric, missing.state) for missing in found.missing} >= {("rank_total", REFERENCE)}
    (grid,) = reference_tables([found])
    assert all(grid.rows[0][:5])
