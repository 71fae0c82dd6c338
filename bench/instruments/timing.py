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

MOST_STEPS = 64
"""Longest run of decode steps, discarded ones included, before the cache is cut back to the prompt."""

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
        self.cache = self._filled()
        self.grown = 0

    def run(self, count: int) -> None:
        for _ in range(count):
            self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True)
        self.grown += count

    def reset(self) -> None:
        if all(getattr(layer, "is_croppable", True) for layer in self.cache.layers):
            self.cache.crop(-self.grown)
        else:
            self.cache = self._filled()
        self.grown = 0

    def _filled(self) -> Cache:
        cache: Cache = self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1).past_key_values
        return cache


PHASES: Mapping[str, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}


@dataclass(frozen=True)
class Blocks:
    """Seconds a step of the paired blocks of one arm, in the order in which they were timed."""

    steps_per_block: int
    control_seconds: tuple[float, ...]
    arm_seconds: tuple[float, ...]
    control_first: tuple[bool, ...]


@dataclass(frozen=True)
class Effort:
    """How much is timed; see ``conf/precision``."""

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
    steps = _calibrate([control, *arms.values()], protocol, clock)
    schedule = [arm for arm in rng.sample(list(arms), len(arms)) for _ in range(protocol.pairs)]
    found: dict[str, list[tuple[float, float, bool]]] = {arm: [] for arm in arms}
    with _quiet():
        for arm in schedule:
            control_first = rng.random() < 0.5
            seconds = {}
            for name in ("control", arm) if control_first else (arm, "control"):
                timed = control if name == "control" else arms[arm]
                seconds[name] = _time_block(timed, steps, protocol.discarded_steps, clock) / steps
            found[arm].append((seconds["control"], seconds[arm], control_first))
    return {arm: Blocks(steps, *_columns(rows)) for arm, rows in found.items()}


def _columns(
    rows: Sequence[tuple[float, float, bool]],
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[bool, ...]]:
    return tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows)


def _time_block(timed: Steps, steps: int, discarded: int, clock: Clock) -> float:
    timed.run(discarded)
    seconds = clock(lambda: timed.run(steps))
    timed.reset()
    return seconds


def _calibrate(all_steps: Sequence[Steps], protocol: Effort, clock: Clock) -> int:
    """Warms every arm up and returns how many steps of the control make a block."""
    singles: list[float] = []
    for index, timed in enumerate(all_steps):
        for _ in range(protocol.warmup_steps):
            seconds = clock(lambda timed=timed: timed.run(1))  # type: ignore[misc]  # binds the loop variable
            if index == 0:
                singles.append(seconds)
        timed.reset()
    needed = math.ceil(protocol.block_seconds / statistics.median(singles))
    return max(1, min(needed, MOST_STEPS - protocol.discarded_steps))


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
