"""Timing two models in turn: the protocol for latency.

Every comparison is made of adjacent pairs of blocks, one of the control and one of an arm, in random order. After each
switch some steps are thrown away (the other arm left caches and branch predictors warm for itself), then a block of
steps long enough for the clock is timed. The two blocks of a pair have the same number of steps. Kalibera & Jones 2013;
Bulej et al. 2020.
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
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from methods.compat import cache_argument, cache_of

MOST_STEPS = 64
"""Longest run of decode steps, discarded ones included, before the cache is cut back to the prompt."""

SETTLED_SECONDS = 0.03
"""After so long an arm runs as it will. On 2 cores, medians over 16 to 120 switches between copies: of a 3.3 ms step
the first was 4.5% slow and the second 1%; of steps of 9, 38 and 187 ms none, beyond a noise of about 1%."""

WARM_SECONDS = 0.5
"""Long steps need fewer warm-up calls than short ones; `LEAST_WARMUP` at least."""
LEAST_WARMUP = 3

Clock = Callable[[Callable[[], None]], float]
"""Runs something and returns the device's seconds for it."""


class Steps(Protocol):
    """Something that is timed step by step."""

    def run(self, count: int) -> None:
        """Runs ``count`` steps."""

    def reset(self) -> None:
        """Goes back to where the first step began."""


class Prefill:
    """One forward pass over the prompt [B, T] that fills an empty cache, logits of the last token only."""

    def __init__(self, model: PreTrainedModel, prompt: Tensor) -> None:
        self.model = model
        self.prompt = prompt

    def run(self, count: int) -> None:
        for _ in range(count):
            self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1)

    def reset(self) -> None:
        """Nothing stays between passes."""


class Decode:
    """One token a sequence [B, 1] on top of a cache that holds the prompt (and virtual tokens, if any)."""

    def __init__(self, model: PreTrainedModel, prompt: Tensor) -> None:
        self.model = model
        self.prompt = prompt
        self.token = prompt[:, -1:]
        self.argument = cache_argument(model)
        self.cache = self._filled()
        self.grown = 0

    def run(self, count: int) -> None:
        for _ in range(count):
            self.model(input_ids=self.token, use_cache=True, **{self.argument: self.cache})
        self.grown += count

    def reset(self) -> None:
        if all(getattr(layer, "is_croppable", True) for layer in self.cache.layers):
            self.cache.crop(-self.grown)
        else:
            self.cache = self._filled()
        self.grown = 0

    def _filled(self) -> Cache:
        cache = cache_of(self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1))
        assert cache is not None
        return cache


PHASES: Mapping[str, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}


@dataclass(frozen=True)
class Blocks:
    """Seconds a step of the paired blocks of one arm, in the order in which they were timed."""

    steps_per_block: int
    discarded_steps: int
    control_seconds: tuple[float, ...]
    arm_seconds: tuple[float, ...]
    control_first: tuple[bool, ...]


@dataclass(frozen=True)
class Effort:
    """How much is timed; see ``conf/precision``. Warm-up and discarded steps are upper bounds, for short steps."""

    pairs: int
    warmup_steps: int
    discarded_steps: int
    block_seconds: float


def clock_for(device: torch.device) -> Clock:
    """The device's own clock: events on CUDA, synchronised once a block; the processor's elsewhere."""
    return _cuda_seconds if device.type == "cuda" else _wall_seconds


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
    control: Steps, arms: Mapping[str, Steps], protocol: Effort, clock: Clock, rng: random.Random
) -> dict[str, Blocks]:
    """Times every arm against the control, one arm after the other in random order.

    The pairs of different arms are not mixed: the control would then have run more recently than any arm whenever it is
    timed, and an identical copy looks 1 to 1.5% slower (12 processes, two runs), discarded steps or not.
    """
    block = _calibrate([control, *arms.values()], protocol, clock)
    schedule = [arm for arm in rng.sample(list(arms), len(arms)) for _ in range(protocol.pairs)]
    found: dict[str, list[tuple[float, float, bool]]] = {arm: [] for arm in arms}
    with _quiet():
        for arm in schedule:
            control_first = rng.random() < 0.5
            seconds = {}
            for name in ("control", arm) if control_first else (arm, "control"):
                seconds[name] = block.seconds_a_step(control if name == "control" else arms[arm], clock)
            found[arm].append((seconds["control"], seconds[arm], control_first))
    return {arm: Blocks(block.steps, block.discarded, *_columns(rows)) for arm, rows in found.items()}


@dataclass(frozen=True)
class Block:
    """What is run each time that it is an arm's turn."""

    steps: int
    discarded: int

    def seconds_a_step(self, timed: Steps, clock: Clock) -> float:
        """Runs the discarded steps, times the others, and goes back to the start."""
        timed.run(self.discarded)
        seconds = clock(lambda: timed.run(self.steps))
        timed.reset()
        return seconds / self.steps


def _columns(
    rows: Sequence[tuple[float, float, bool]],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[bool, ...]]:
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows)


def _calibrate(all_steps: Sequence[Steps], protocol: Effort, clock: Clock) -> Block:
    """Warms every arm up and lays out the block by the shortest step among them, so that every block is long enough."""
    step = min(_warm(timed, protocol.warmup_steps, clock) for timed in all_steps)
    discarded = min(protocol.discarded_steps, max(1, math.ceil(SETTLED_SECONDS / step)))
    steps = max(1, min(math.ceil(protocol.block_seconds / step), MOST_STEPS - discarded))
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
