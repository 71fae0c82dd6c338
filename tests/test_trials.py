"""The self-test of the gate: what is counted of trials whose truth is known, and what is injected."""

from __future__ import annotations

import dataclasses
import gc
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config.compose import compose_run
from bench.errors import UsageError
from bench.gate.report import rates_report
from bench.gate.selftest import PERIODS, SLOWDOWNS, read_trials, trials_path
from bench.gate.trials import Rates, Run, Trials, rates
from bench.instruments import timing
from bench.instruments.timing import TimingConfig, time_pairs
from bench.records.record import Pairs
from bench.records.store import write_json
from bench.worker.slowdown import Slowed

CONFIG = {"precision": {"processes": 6, "margin": 0.03}}


def trials(noise: float, runs: int = 40, found: float = 1.0) -> Trials:
    """Runs in which a share ``found`` of each slowdown shows, of a rare one in the means alone."""
    rng = random.Random(0)

    def values(share: dict[str, float], noise: float) -> dict[str, tuple[float, ...]]:
        return {arm: tuple(rng.gauss(share[arm] * slow, noise) for _ in range(6)) for arm, slow in SLOWDOWNS.items()}

    medians = {arm: 0.0 if arm in PERIODS else found for arm in SLOWDOWNS}
    means = dict.fromkeys(SLOWDOWNS, found)
    made = [Run(values(medians, noise), 1.0, values(means, 2 * noise)) for _ in range(runs)]
    return Trials("quiet", SLOWDOWNS, CONFIG, tuple(made), periods=PERIODS)


def by_slowdown(one: Trials) -> dict[tuple[float, int], Rates]:
    return {(found.slowdown, found.period): found for found in rates(one)}


def test_on_a_quiet_machine_all_is_found_and_nothing_else() -> None:
    """Copies pass and are shown the same, 5 and 10% are found, 2% is none that counts; 10% that come every tenth step
    are found by the mean alone."""
    found = by_slowdown(trials(0.004))
    assert found[0.0, 1].checks == 160
    assert found[0.0, 1].passed == found[0.0, 1].equivalent == 160
    assert found[0.0, 1].regressed == 0
    assert found[0.05, 1].regressed == found[0.05, 1].checks == 40
    assert found[0.10, 1].regressed == 40
    assert found[0.02, 1].regressed == 0
    assert (found[0.10, 10].regressed, found[0.10, 10].by_median, found[0.10, 10].by_mean) == (40, 0, 40)


def test_trials_without_means_are_judged_by_medians() -> None:
    """Those that were stored before the means were tested have the rates that they had, and none of the mean."""
    before = [dataclasses.replace(run, mean_log_ratios={}) for run in trials(0.004).runs]
    one = Trials("quiet", {"zero_a": 0.0, "ten": 0.10}, CONFIG, tuple(before))
    found = by_slowdown(one)
    assert (found[0.10, 1].regressed, found[0.10, 1].by_median, found[0.10, 1].by_mean) == (40, 40, None)
    assert found[0.0, 1].passed == found[0.0, 1].equivalent == 40
    assert [row[5] for row in rates_report([one]).tables[0].rows] == ["", ""]


def test_a_gate_that_sees_nothing_is_seen() -> None:
    """Where the injected slowdown does not reach the clock, the rates say so: they are counted, not assumed."""
    found = by_slowdown(trials(0.004, found=0.0))
    assert found[0.05, 1].regressed == found[0.10, 1].regressed == found[0.10, 10].regressed == 0
    assert found[0.10, 1].passed == 40


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


@pytest.mark.parametrize(("slowdown", "period"), [(0.0, 1), (0.05, 1), (0.5, 1), (0.1, 10)])
def test_a_slowdown_is_in_proportion_to_the_step(monkeypatch: pytest.MonkeyPatch, slowdown: float, period: int) -> None:
    """A step slowed by half takes half as long again, by its own clock; one slowed by nothing as long as ever. Ten
    steps take as much longer where all of it is in the tenth."""
    clock = Clock()
    monkeypatch.setattr("bench.worker.slowdown.time.perf_counter", clock)
    steps = Waits(clock)
    slowed = Slowed(steps, slowdown, period)
    slowed.run(9)
    assert clock.now == pytest.approx(9 * (1 + (slowdown if period == 1 else 0.0)), abs=0.05)
    slowed.run(1)
    assert clock.now == pytest.approx(10 * (1 + slowdown), abs=0.05)
    assert steps.count == 10


BURST = (1.2, 3.0)
"""How many times as long a step takes that a neighbor disturbs."""


class Disturbed:
    """Steps of 3.1 ms that spread by 3%, some of which a neighbor disturbs and every tenth may take twice as long."""

    def __init__(self, clock: Clock, rng: random.Random, disturbed: float, slowdown: float = 0.0) -> None:
        self.clock, self.rng, self.disturbed, self.slowdown = clock, rng, disturbed, slowdown
        self.own, self.taken = rng.gauss(0, 0.007), 0

    def run(self, count: int) -> None:
        for _ in range(count):
            self.taken += 1
            burst = self.rng.uniform(*BURST) if self.rng.random() < self.disturbed else 1.0
            rare = 1.0 if self.taken % 10 else 1.0 + 10 * self.slowdown
            self.clock.now += 0.0031 * burst * rare * self.rng.lognormvariate(self.own, 0.03)

    def reset(self) -> None:
        """Nothing: it is counted on."""


@pytest.mark.parametrize("disturbed", [0.01, 0.05])
def test_error_rates_of_both_statistics_by_simulation(monkeypatch: pytest.MonkeyPatch, disturbed: float) -> None:
    """On a virtual clock, at the gate's own precision, quiet and with means that spread as beside a noisy neighbor: 95%
    of slowdowns by 10% that come every tenth step are found, by the mean; of copies none is a false alarm and at least
    95% pass."""
    monkeypatch.setattr(gc, "collect", int)
    clock, rng = Clock(), random.Random(0)
    precision = compose_run(["study=selftest"]).cells[0]["precision"]
    effort = TimingConfig(precision["pairs"], 3, precision["discarded_steps"], precision["block_seconds"])

    def read(work: Callable[[], None]) -> float:
        before = clock.now
        work()
        return clock.now - before

    def process(slowdown: float) -> Pairs:
        control, arm = (Disturbed(clock, rng, disturbed, own) for own in (0.0, slowdown))
        found = time_pairs(control, {"a": arm}, effort, timing.Clock(read, 0.0), rng)["a"]
        return Pairs(0, "decode", "a", 1, 8, **vars(found), shared_weights=False)

    slowdowns = {"zero": 0.0, "tenth": 0.1}
    pool = {arm: [process(slowdown) for _ in range(48)] for arm, slowdown in slowdowns.items()}
    runs = []
    for _ in range(200):
        drawn = {arm: rng.sample(those, precision["max_processes"]) for arm, those in pool.items()}
        medians, means = (
            {arm: tuple(getattr(own, name) for own in those) for arm, those in drawn.items()}
            for name in ("log_ratio", "mean_log_ratio")
        )
        runs.append(Run(medians, 1.0, means))
    found = by_slowdown(Trials("quiet", slowdowns, {"precision": precision}, tuple(runs), periods={"tenth": 10}))
    assert (found[0.1, 10].by_mean or 0) >= 190
    assert found[0.0, 1].regressed == 0
    assert found[0.0, 1].passed >= 190


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
    one = dataclasses.replace(trials(0.01, runs=3), runs=(Run(arms, 1.0, arms),) * 3)
    assert {found.passed for found in rates(one)} == {12, 3}
    wide = {arm: tuple([0.2, -0.2] * 6) for arm in SLOWDOWNS}
    assert all(found.passed == 0 for found in rates(dataclasses.replace(one, runs=(Run(arms, 1.0, wide),) * 3)))


def test_too_few_runs_say_nothing() -> None:
    """With two runs a slowdown would be its own baseline or its own repeat."""
    assert rates(trials(0.004, runs=2)) == []
