"""The self-test of the gate: what is counted of trials whose truth is known, and what is injected."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.gate.selftest import SLOWDOWNS, read_trials, trials_path
from bench.gate.trials import Run, Trials, rates
from bench.records.store import write_json
from bench.worker.slowdown import Slowed

CONFIG = {"precision": {"processes": 6, "margin": 0.03}}


def trials(noise: float, runs: int = 40, found: float = 1.0) -> Trials:
    """Runs in which a share ``found`` of each slowdown shows."""
    rng = random.Random(0)
    made = [
        Run({arm: tuple(rng.gauss(found * slow, noise) for _ in range(6)) for arm, slow in SLOWDOWNS.items()}, 1.0)
        for _ in range(runs)
    ]
    return Trials("quiet", SLOWDOWNS, CONFIG, tuple(made))


def test_on_a_quiet_machine_all_is_found_and_nothing_else() -> None:
    """Copies pass and are shown the same, 5 and 10% are found, 2% is none that counts."""
    found = {one.slowdown: one for one in rates(trials(0.004))}
    assert found[0.0].checks == 80
    assert found[0.0].passed == found[0.0].equivalent == 80
    assert found[0.0].regressed == 0
    assert found[0.05].regressed == found[0.05].checks == 40
    assert found[0.10].regressed == 40
    assert found[0.02].regressed == 0


def test_a_gate_that_sees_nothing_is_seen() -> None:
    """Where the injected slowdown does not reach the clock, the rates say so: they are counted, not assumed."""
    found = {one.slowdown: one for one in rates(trials(0.004, found=0.0))}
    assert found[0.05].regressed == found[0.10].regressed == 0
    assert found[0.10].passed == 40


def test_every_check_ends_one_way() -> None:
    """Regressed, passed and ambiguous add up, in whatever noise."""
    for one in rates(trials(0.05)):
        assert one.regressed + one.passed + one.ambiguous == one.checks
        assert one.regressed <= one.regressed_at_first


class Clock:
    """Advances by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@dataclasses.dataclass
class Waits:
    """Steps that take a second of the clock."""

    clock: Clock
    count: int = 0

    def run(self, count: int) -> None:
        self.count += count
        self.clock.now += count

    def reset(self) -> None:
        self.count = 0


@pytest.mark.parametrize("slowdown", [0.0, 0.05, 0.5])
def test_a_slowdown_is_in_proportion_to_the_step(monkeypatch: pytest.MonkeyPatch, slowdown: float) -> None:
    """A step slowed by half takes half as long again, by its own clock; one slowed by nothing as long as ever."""
    clock = Clock()
    monkeypatch.setattr("bench.worker.slowdown.time.perf_counter", clock)
    steps = Waits(clock)
    Slowed(steps, slowdown).run(3)
    assert clock.now == pytest.approx(3 * (1 + slowdown), abs=0.02)
    assert steps.count == 3


def test_trials_come_back_as_they_were(tmp_path: Path) -> None:
    """And a torn or foreign file is refused by name."""
    path = trials_path(tmp_path, noisy=False)
    write_json(path, trials(0.01, runs=4))
    assert rates(read_trials(path)) == rates(trials(0.01, runs=4))
    path.write_text(path.read_text()[:-30])
    with pytest.raises(UsageError, match=r"quiet\.json"):
        read_trials(path)


def test_a_check_stops_where_its_own_interval_is_narrow() -> None:
    """Processes that were added for another arm do not help this one."""
    narrow = tuple([0.001, -0.001] * 3)
    arms = {arm: (*narrow, *([0.5] * 6)) for arm in SLOWDOWNS}
    one = dataclasses.replace(trials(0.01, runs=3), runs=(Run(arms, 1.0),) * 3)
    assert {found.passed for found in rates(one)} == {6, 3}


def test_too_few_runs_say_nothing() -> None:
    """With two runs a slowdown would be its own baseline or its own repeat."""
    assert rates(trials(0.004, runs=2)) == []
