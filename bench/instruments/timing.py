"""Timing two models in turn: the protocol for latency.

Every comparison is made of adjacent pairs of blocks, one of the control and one of an arm, in random order. After each
switch some steps are thrown away (the other arm left caches and branch predictors warm for itself), then a block of
steps long enough for the clock is timed. The two blocks of a pair have the same number of steps.

Blocks go on where the last ones of the same arms ended, up to `MAX_STEPS` after the prompt, both sides alike: what
comes with the growth of a cache is timed at lengths all the way up to there. How many steps are thrown away varies by
one at random. Otherwise a cost that comes every so many steps could fall into each timed block, or into none. Kalibera
& Jones 2013; Bulej et al. 2020.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.config.schema import MAX_STEPS
from bench.instruments.steps import Steps

SETTLED_SECONDS = 0.01
"""After so long an arm runs as it will. On 2 cores, medians over 16 to 120 switches between copies: of a 3.3 ms step
the first was 4.5% slow and the second 1%; of steps of 9, 38 and 187 ms none, beyond a noise of about 1%. So two or
three short steps are thrown away, one of 9 ms, and none of 38 ms."""

WARM_SECONDS = 0.5
"""Long steps need fewer warm-up calls than short ones; `LEAST_WARMUP` at least."""
LEAST_WARMUP = 3

RESOLVED = 1000
"""A block is at least so many times as long as what its clock can tell apart, an error of 0.1%."""


@dataclass(frozen=True)
class Blocks:
    """Seconds a step of the paired blocks of one arm, in the order in which they were timed."""

    steps_per_block: int
    discarded_steps: int
    """Before each block, at least: before half of the pairs, drawn at random, one more."""
    control_seconds: tuple[float, ...]
    arm_seconds: tuple[float, ...]
    control_first: tuple[bool, ...]


@dataclass(frozen=True)
class TimingConfig:
    """How much is timed; see ``conf/precision``. Warm-up and discarded steps are upper bounds, for short steps."""

    pairs: int
    warmup_steps: int
    discarded_steps: int
    block_seconds: float
    min_steps: int = 1
    """Steps of a block, at least."""


@dataclass(frozen=True)
class Clock:
    """Times what a device does."""

    read: Callable[[Callable[[], None]], float]
    """Runs something and returns the device's seconds for it."""
    resolution_seconds: float
    """What it can tell apart."""

    def __call__(self, work: Callable[[], None]) -> float:
        return self.read(work)


def clock_for(device: torch.device) -> Clock:
    """The device's own clock: events on CUDA, synchronised once a block; the processor's elsewhere."""
    if device.type == "cuda":
        return Clock(_cuda_seconds, resolution_seconds=0.5e-6)  # of CUDA's cudaEventElapsedTime
    return Clock(_wall_seconds, time.get_clock_info("perf_counter").resolution)


def _wall_seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cuda_seconds(work: Callable[[], None]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def time_pairs(
    control: Steps, arms: Mapping[str, Steps], protocol: TimingConfig, clock: Clock, rng: random.Random
) -> dict[str, Blocks]:
    """Times every arm against the control, one arm after the other in random order.

    The pairs of different arms are not mixed: the control would then have run more recently than any arm whenever it is
    timed, and an identical copy looks 1 to 1.5% slower (12 processes, two runs), discarded steps or not.
    """
    block = _calibrate([control, *arms.values()], protocol, clock)
    schedule = [arm for arm in rng.sample(list(arms), len(arms)) for _ in range(protocol.pairs)]
    found: dict[str, list[tuple[float, float, bool]]] = {arm: [] for arm in arms}
    grown = 0
    with _quiet():
        for number, arm in enumerate(schedule):
            control_first, discarded = rng.random() < 0.5, block.discarded + rng.randrange(2)
            if number % protocol.pairs == 0 or grown + discarded + block.steps > MAX_STEPS:
                control.reset()
                arms[arm].reset()
                grown = 0
            grown += discarded + block.steps
            seconds = {}
            for name in ("control", arm) if control_first else (arm, "control"):
                side = control if name == "control" else arms[arm]
                seconds[name] = block.seconds_a_step(side, discarded, clock)
            found[arm].append((seconds["control"], seconds[arm], control_first))
    return {arm: Blocks(block.steps, block.discarded, *_columns(rows)) for arm, rows in found.items()}


@dataclass(frozen=True)
class Block:
    """What is run each time that it is an arm's turn."""

    steps: int
    discarded: int
    """At least; one more before half of the pairs."""

    def seconds_a_step(self, timed: Steps, discarded: int, clock: Clock) -> float:
        """Runs the discarded steps and times the others."""
        timed.run(discarded)
        return clock(lambda: timed.run(self.steps)) / self.steps


def _columns(
    rows: Sequence[tuple[float, float, bool]],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[bool, ...]]:
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows)


def _calibrate(all_steps: Sequence[Steps], protocol: TimingConfig, clock: Clock) -> Block:
    """Warms every arm up and lays out the block by the shortest step among them, so that every block is long enough."""
    step = min(_warm(timed, protocol.warmup_steps, clock) for timed in all_steps)
    discarded = min(protocol.discarded_steps, round(SETTLED_SECONDS / step))
    seconds = max(protocol.block_seconds, RESOLVED * clock.resolution_seconds)
    steps = max(protocol.min_steps, min(math.ceil(seconds / step), MAX_STEPS - discarded - 1))
    return Block(steps, discarded)


def _warm(timed: Steps, most: int, clock: Clock) -> float:
    """Runs up to ``most`` single steps, and returns the median of their seconds."""
    singles: list[float] = []
    while len(singles) < min(most, LEAST_WARMUP) or (len(singles) < most and sum(singles) < WARM_SECONDS):
        singles.append(clock(lambda: timed.run(1)))
    timed.reset()
    return statistics.median(singles)


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection inside a timed block."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
