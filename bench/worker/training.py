"""Training steps of a cell's method, timed in turn with those of the training reference in the same process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from bench.instruments.timing import clock_for, time_pairs
from bench.records.record import REFERENCE, TRAIN, UNMERGED, Missing, Pairs
from bench.records.results import LatencySamples
from bench.worker.copies import copy_of, fits, weight_bytes
from bench.worker.setup import random_tokens, timing_config
from bench.workload.plan import Plan
from bench.workload.subject import prompt_of
from bench.workload.training import Diverged, Trainer, attach_to_train
from methods import Method, MethodError

WARMUP_STEPS = 2
"""The first step makes the optimizer's state, the second tells how long a step takes."""
MIN_STEPS = 2
"""Steps of a block: work that a method does every so often is timed in proportion over all blocks."""
RATIO = "train_ratio"


def training_pairs(
    plan: Plan, base: PreTrainedModel, peak_bytes: int, share: bool, process: int, rng: random.Random
) -> LatencySamples:
    """Pairs of blocks of training steps, of the reference and of the method, each on a copy of the base.

    ``peak_bytes``: of a training step of the method. ``share``: whether the copies share storage, which they do only if
    the cell has a reference of its own: what ``workload.train_reference`` names may train the base.
    """
    assert plan.train_reference is not None
    named = plan.reference is None
    # at most the method's peak twice, and a gradient and AdamW's two numbers for each weight of the base
    if named and not fits(2 * peak_bytes + 3 * weight_bytes(base), plan.torch_device):
        return _missing(plan.train_reference, "training steps of both do not fit in memory at once")
    methods = {
        UNMERGED: (plan.method, plan.learning_rate),
        REFERENCE: (plan.train_reference, plan.train_reference_learning_rate),
    }
    try:
        steps = _steps(plan, base, methods, share and not named, rng)
        config = timing_config(plan)
        if named:
            config = replace(config, pairs=plan.precision.train_pairs, warmup_steps=WARMUP_STEPS, min_steps=MIN_STEPS)
        timed = time_pairs(steps.pop(REFERENCE), steps, config, clock_for(plan.torch_device), rng)
    except (MethodError, Diverged) as error:
        if not named:
            raise
        return _missing(plan.train_reference, str(error))
    except torch.OutOfMemoryError:
        if not named:
            raise
        return _missing(plan.train_reference, "training steps of both do not fit on the card at once")
    blocks, work = timed[UNMERGED], plan.workload
    point = work.train_batch_size, work.train_length
    return LatencySamples([Pairs(process, TRAIN, UNMERGED, *point, **vars(blocks), shared_weights=share and not named)])


def _missing(reference: Method, why: str) -> LatencySamples:
    reason = f"not timed in turn with {reference.title}: {why}; see workload.train_reference"
    return LatencySamples(missing=[Missing(RATIO, UNMERGED, reason)])


def _steps(
    plan: Plan,
    base: PreTrainedModel,
    methods: Mapping[str, tuple[Method, float]],
    share: bool,
    rng: random.Random,
) -> dict[str, TrainSteps]:
    """Training steps of every arm, built in random order."""
    work = plan.workload
    tokens = prompt_of(random_tokens(plan, base), work.train_batch_size * work.train_steps, work.train_length)
    steps: dict[str, TrainSteps] = {}
    for arm in rng.sample(list(methods), len(methods)):
        method, rate = methods[arm]
        torch.manual_seed(plan.seed)
        attached = attach_to_train(plan, method, copy_of(base, share))
        attached.model.train()
        steps[arm] = TrainSteps(Trainer(plan, attached, tokens.to(plan.torch_device), rate))
    return steps


class TrainSteps:
    """Training steps that repeat the budget, so that scheduled work of a method is timed in proportion."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def run(self, count: int) -> None:
        for _ in range(count):
            if len(self.trainer.losses) >= self.trainer.plan.workload.train_steps:
                self.trainer.losses.clear()
            self.trainer.step()

    def reset(self) -> None:
        """Nothing: training goes on."""
