"""A known slowdown in a real model, for the self-test of the regression gate. Runs in child processes.

After each step the processor is kept busy for a fraction of the step's own time: what the gate should find is then
known, on whatever machine and in whatever noise.
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
from bench.records.results import Timed
from bench.worker.latency import effort_of, random_tokens
from bench.worker.setup import start
from bench.workload.models import load_model
from bench.workload.subject import prompt_of


class Slowed:
    """Steps that take ``1 + slowdown`` times as long."""

    def __init__(self, steps: Steps, slowdown: float) -> None:
        self.steps = steps
        self.slowdown = slowdown

    def run(self, count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            self.steps.run(1)
            ended = time.perf_counter()
            until = ended + self.slowdown * (ended - begun)
            while time.perf_counter() < until:
                pass

    def reset(self) -> None:
        self.steps.reset()


def measure_injected(
    config: Mapping[str, Any], slowdowns: Mapping[str, float], process: int, report: Callable[[str], None]
) -> Timed:
    """One replicate: a decode step of identical copies of the base, each slowed as its arm says, against the control.

    The control runs inside the same wrapper, slowed by nothing, so that the wrapper itself is no difference.
    """
    plan = start(config)
    rng = random.Random(random.SystemRandom().random())  # every run is a new one, as every check is
    base = load_model(plan.model, plan.torch_device, plan.seed)
    arms = {"control": 0.0, **slowdowns}
    models = {arm: copy.deepcopy(base).eval() for arm in rng.sample(list(arms), len(arms))}
    del base
    batch, length = plan.points()[0]
    prompt = prompt_of(random_tokens(plan, models["control"]), batch, length).to(plan.torch_device)
    report("decode")
    with torch.no_grad():
        steps = {arm: Slowed(Decode(model, prompt), arms[arm]) for arm, model in models.items()}
        timed = time_pairs(steps.pop("control"), steps, effort_of(plan), clock_for(plan.torch_device), rng)
    return Timed(
        [
            Pairs(process, "decode", arm, batch, length, **vars(blocks), shared_weights=False)
            for arm, blocks in timed.items()
        ]
    )
