"""The timing protocol, on a fake clock: what is run, in which order, and what is thrown away."""

from __future__ import annotations

import gc
import math
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch

from bench.instruments.steps import MAX_STEPS, PHASES, Decode
from bench.instruments.timing import LEAST_WARMUP, Blocks, Clock, TimingConfig, clock_for, time_pairs
from bench.records.record import Pairs
from methods.prefix_tuning import PrefixTuning
from tests.families import build

EFFORT = TimingConfig(pairs=5, warmup_steps=10, discarded_steps=3, block_seconds=0.008)


@dataclass
class Bench:
    """A clock that steps advance, and the log of who ran."""

    now: float = 0.0
    log: list[tuple[str, int]] = field(default_factory=list)
    collecting: list[bool] = field(default_factory=list)

    @property
    def clock(self) -> Clock:
        return Clock(self.read, resolution_seconds=0.0)

    def read(self, work: Callable[[], None]) -> float:
        before = self.now
        work()
        self.log.append(("timed", 0))
        return self.now - before


@dataclass
class FakeSteps:
    """Steps of a known length."""

    name: str
    seconds: float
    bench: Bench
    period: int = 1 << 30
    """Every so many-th step takes twice as long."""
    taken: int = 0
    since_reset: int = 0
    longest: int = 0
    timed: list[int] = field(default_factory=list)
    """How far a cache would have grown after each step of a block of four, where only timed blocks have four."""

    def run(self, count: int) -> None:
        twice = (self.taken + count) // self.period - self.taken // self.period
        self.taken += count
        self.bench.now += (count + twice) * self.seconds
        if count == 4:
            self.timed += range(self.since_reset + 1, self.since_reset + 5)
        self.bench.log.append((self.name, count))
        self.bench.collecting.append(gc.isenabled())
        self.since_reset += count
        self.longest = max(self.longest, self.since_reset)

    def reset(self) -> None:
        self.since_reset = 0


def timed(
    seconds: Mapping[str, float], effort: TimingConfig = EFFORT, seed: int = 0
) -> tuple[dict[str, Blocks], Bench]:
    bench = Bench()
    steps = {name: FakeSteps(name, each, bench) for name, each in seconds.items()}
    control = steps.pop("control")
    return time_pairs(control, steps, effort, bench.clock, random.Random(seed)), bench


def test_seconds_are_those_of_one_step() -> None:
    """Each arm's blocks give its own seconds a step, beside the control's, once a pair."""
    found, _ = timed({"control": 0.002, "aa": 0.002, "slow": 0.003})
    assert set(found) == {"aa", "slow"}
    for arm, each in (("aa", 0.002), ("slow", 0.003)):
        assert found[arm].arm_seconds == pytest.approx([each] * EFFORT.pairs)
        assert found[arm].control_seconds == pytest.approx([0.002] * EFFORT.pairs)
        assert len(found[arm].control_first) == EFFORT.pairs


@pytest.mark.parametrize(
    ("seconds", "discarded", "steps"), [(0.002, 3, 4), (0.0001, 3, MAX_STEPS - 4), (0.009, 1, 1), (0.038, 0, 1)]
)
def test_a_block_is_long_enough_and_begins_when_the_arm_has_settled(seconds: float, discarded: int, steps: int) -> None:
    """Blocks of the shortest arm reach ``block_seconds`` while the cache allows it; long steps need fewer discarded."""
    found, _ = timed({"control": seconds, "slow": 2 * seconds})
    assert (found["slow"].discarded_steps, found["slow"].steps_per_block) == (discarded, steps)


def test_a_control_much_slower_than_an_arm_does_not_shorten_its_blocks() -> None:
    """The block is laid out by the shortest step among all arms, not by the control's."""
    found, _ = timed({"control": 0.02, "quick": 0.001})
    assert found["quick"].steps_per_block == 8


def test_arms_are_timed_one_after_another_each_beside_the_control() -> None:
    """Every block of an arm is adjacent to one of the control, and the pairs of different arms are not mixed."""
    _, bench = timed({"control": 0.002, "a": 0.002, "b": 0.002}, seed=1)
    # after the warm-up each block is: discarded steps, timed steps, the clock
    timed_blocks = [i for i, log in enumerate(bench.log) if log[0] == "timed" and bench.log[i - 1][1] == 4]
    blocks = [bench.log[i - 1][0] for i in timed_blocks]
    assert len(blocks) == 2 * 2 * EFFORT.pairs
    paired = [frozenset(blocks[i : i + 2]) - {"control"} for i in range(0, len(blocks), 2)]
    assert all(len(pair) == 1 for pair in paired)
    arms = [next(iter(pair)) for pair in paired]
    assert arms in (["a"] * 5 + ["b"] * 5, ["b"] * 5 + ["a"] * 5)


def test_the_order_within_pairs_and_of_arms_is_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over seeds the control comes first about as often as second, and either arm begins."""
    monkeypatch.setattr(gc, "collect", int)  # the heap of these tests is large, and nobody's clock is real here
    firsts, begins = [], set()
    for seed in range(40):
        found, bench = timed({"control": 0.002, "a": 0.002, "b": 0.002}, seed=seed)
        firsts += [first for blocks in found.values() for first in blocks.control_first]
        begins.add(next(name for name, count in bench.log if count == 4 and name != "control"))
    assert 0.4 < sum(firsts) / len(firsts) < 0.6
    assert begins == {"a", "b"}


def test_each_arm_is_warmed_up_and_long_steps_less() -> None:
    """Ten single calls of a short step, three of one that takes a second."""
    _, quick = timed({"control": 0.002, "a": 0.002})
    _, slow = timed({"control": 1.0, "a": 1.0})
    for bench, calls in ((quick, EFFORT.warmup_steps), (slow, LEAST_WARMUP)):
        single = [name for name, count in bench.log[: 4 * calls] if count == 1]
        assert [single.count(name) for name in ("control", "a")] == [calls, calls]


@pytest.mark.parametrize("step", [0.0007, 0.0018, 0.0031, 0.009, 0.044])
@pytest.mark.parametrize("period", [5, 10, 16])
def test_a_cost_of_every_so_many_steps_is_timed_in_proportion(
    monkeypatch: pytest.MonkeyPatch, step: float, period: int
) -> None:
    """Whatever a block's length, a step that is twice as long every n-th time adds about 1/n to the ratio of means of a
    dozen processes: it falls neither into every timed block nor into none."""
    monkeypatch.setattr(gc, "collect", int)
    effort = TimingConfig(pairs=40, warmup_steps=10, discarded_steps=2, block_seconds=0.012)
    means = [rare_cost(step, period, effort, seed)[1] for seed in range(12)]
    assert statistics.fmean(means) == pytest.approx(math.log1p(1 / period), abs=0.25 / period)


def test_a_median_passes_over_what_the_mean_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step twice as long every tenth time, in blocks of four: less than half of it is seen by the median."""
    monkeypatch.setattr(gc, "collect", int)
    effort = TimingConfig(pairs=40, warmup_steps=10, discarded_steps=2, block_seconds=0.012)
    found = [rare_cost(0.0031, 10, effort, seed) for seed in range(12)]
    medians, means = (statistics.fmean(own) for own in zip(*found, strict=True))
    assert medians < 0.5 * means


def rare_cost(seconds: float, period: int, effort: TimingConfig, seed: int) -> tuple[float, float]:
    """Median and mean log-ratio of steps of which every ``period``-th takes twice as long."""
    bench = Bench()
    arm = FakeSteps("a", seconds, bench, period=period)
    found = time_pairs(FakeSteps("control", seconds, bench), {"a": arm}, effort, bench.clock, random.Random(seed))
    pairs = Pairs(0, "decode", "a", 1, 8, **vars(found["a"]), shared_weights=False)
    return pairs.log_ratio, pairs.mean_log_ratio


def test_what_comes_with_growth_is_timed() -> None:
    """The blocks of an arm go on where its last one ended, as do the control's beside them, so that after two blocks
    each length is timed up to where the cache is cut back, on both sides alike."""
    bench = Bench()
    control, arm = FakeSteps("control", 0.002, bench), FakeSteps("a", 0.002, bench)
    effort = TimingConfig(pairs=200, warmup_steps=3, discarded_steps=2, block_seconds=0.008)
    time_pairs(control, {"a": arm}, effort, bench.clock, random.Random(0))
    assert control.timed == arm.timed
    assert {*arm.timed} >= {*range(9, MAX_STEPS - 8)}
    assert max(arm.timed) <= MAX_STEPS


def test_no_garbage_is_collected_in_a_block() -> None:
    """Collection is off while pairs are timed and on again afterwards, also when a step fails."""
    _, bench = timed({"control": 0.002, "a": 0.002})
    assert not any(bench.collecting[-4 * EFFORT.pairs :])
    assert gc.isenabled()

    class Failing(FakeSteps):
        def run(self, count: int) -> None:
            super().run(count)
            if not gc.isenabled():
                raise RuntimeError

    other = Bench()
    arms = {"a": Failing("a", 0.002, other)}
    with pytest.raises(RuntimeError):
        time_pairs(FakeSteps("control", 0.002, other), arms, EFFORT, other.clock, random.Random(0))
    assert gc.isenabled()


def test_a_decode_block_never_outgrows_its_positions() -> None:
    """However short a step, no more than `MAX_STEPS` tokens come on top of the prompt, warm-up included."""
    bench = Bench()
    steps = FakeSteps("control", 1e-6, bench)
    time_pairs(steps, {"a": FakeSteps("a", 1e-6, bench)}, EFFORT, bench.clock, random.Random(0))
    assert steps.longest <= MAX_STEPS


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("prefix", [0, 5])
@torch.no_grad()
def test_decode_steps_stand_on_the_prompt(family: str, prefix: int) -> None:
    """Each step adds one position to the cache, and a reset cuts it back to prompt and prefix."""
    model = build(family)
    if prefix:
        PrefixTuning(num_virtual_tokens=prefix).attach(model).prepare_for_inference()
    steps = Decode(model, torch.arange(3, 12)[None])
    assert steps.cache.get_seq_length() == 9 + prefix
    for _ in range(2):
        steps.run(3)
        assert steps.cache.get_seq_length() == 12 + prefix
        steps.reset()
        assert steps.cache.get_seq_length() == 9 + prefix


@torch.no_grad()
def test_real_steps_run_on_the_real_clock() -> None:
    """Both phases of a real model give positive seconds for each pair."""
    prompt, effort = torch.arange(3, 12)[None], TimingConfig(2, 1, 1, 1e-4)
    for kind in PHASES.values():
        control, arm = kind(build("llama"), prompt), kind(build("llama"), prompt)
        found = time_pairs(control, {"aa": arm}, effort, clock_for(torch.device("cpu")), random.Random(0))
        assert all(value > 0 for value in (*found["aa"].arm_seconds, *found["aa"].control_seconds))
