"""A known slowdown in a real model, for the self-test of the regression gate.

After each step, or after every so many-th one, the processor is kept busy in proportion to the step's own time. So it
is known what the gate should find, on any machine and in any noise.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.instruments.steps import Decode, Steps
from bench.instruments.timing import clock_for, time_pairs
from bench.records.record import Pairs
from bench.records.results import LatencySamples
from bench.worker.setup import random_tokens, start, timing_config
from bench.workload.models import load_model
from bench.workload.subject import prompt_of


class Slowed:
    """Steps that on average take ``1 + slowdown`` times as long, all of it in every ``period``-th step."""

    def __init__(self, steps: Steps, slowdown: float, period: int = 1) -> None:
        self.steps = steps
        self.slowdown = slowdown
        self.period = period
        self.taken = 0

    def run(self, count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            self.steps.run(1)
            ended = time.perf_counter()
            self.taken += 1
            share = 0.0 if self.taken % self.period else self.slowdown * self.period
            until = ended + share * (ended - begun)
            while time.perf_counter() < until:
                pass

    def reset(self) -> None:
        self.steps.reset()


def measure_injected(
    config: Mapping[str, Any],
    slowdowns: Mapping[str, float],
    periods: Mapping[str, int],
    process: int,
    report: Callable[[str], None],
) -> LatencySamples:
    """One replicate: decode steps of identical copies of the base, each slowed as its arm says, and of the control.

    ``periods`` has the arms whose slowdown is all in every so many-th step. The control runs in the same wrapper
    without a slowdown, so that the wrapper itself makes no difference.
    """
    plan = start(config)
    rng = random.Random(random.SystemRandom().random())  # every check draws a new order, so every run does
    base = load_model(plan.model, plan.torch_device, plan.seed)
    arms = {"control": 0.0, **slowdowns}
    models = {arm: copy.deepcopy(base).eval() for arm in rng.sample(list(arms), len(arms))}
    del base
    batch, length = plan.points()[0]
    prompt = prompt_of(random_tokens(plan, models["control"]), batch, length).to(plan.torch_device)
    report("decode")
    with torch.no_grad():
        steps = {arm: Slowed(Decode(model, prompt), arms[arm], periods.get(arm, 1)) for arm, model in models.items()}
        timed = time_pairs(steps.pop("control"), steps, timing_config(plan), clock_for(plan.torch_device), rng)
    return LatencySamples(
        [
            Pairs(process, "decode", arm, batch, length, **vars(blocks), shared_weights=False)
            for arm, blocks in timed.items()
        ]
    )
