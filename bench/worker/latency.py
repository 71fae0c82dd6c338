"""Latency replicates: in one process, the states of a cell's method are timed in turn with the control."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.config.schema import MAX_STEPS, Phase, Sharing
from bench.instruments.card import Nvml, card_warnings
from bench.instruments.steps import PHASES
from bench.instruments.timing import Blocks, TimingConfig, clock_for, time_pairs
from bench.records.record import AA, CONTROL, MERGED, REFERENCE, TRAIN, UNMERGED, Pairs
from bench.records.results import LatencySamples
from bench.worker.setup import CHECKPOINT, Report, start
from bench.workload.models import load_model
from bench.workload.plan import Plan
from bench.workload.subject import prompt_of
from bench.workload.training import Trainer, weight_tensors
from methods.architectures import embedding_shape, sizes_of


def measure_pairs(
    config: Mapping[str, Any], staging: str, states: Sequence[str], process: int, report: Report
) -> LatencySamples:
    """One replicate: every state and a second control in turn with the control, at every workload point."""
    plan = start(config, staging)
    rng = random.Random(f"{plan.seed}-{process}")
    base = load_model(plan.model, plan.torch_device, plan.seed)
    arms = [CONTROL, *([AA] if plan.precision.second_control else []), *states]
    share = must_share(plan, base, len(arms))
    found: list[Pairs] = []
    card = Nvml.of(plan.torch_device) if plan.torch_device.type == "cuda" else None
    seen = [] if card is None else [card.snapshot()]
    if plan.reference is not None:  # before the arms exist, because training needs room of its own
        report(TRAIN)
        found.append(_training_pairs(plan, base, process, share, rng))
        gc.collect()  # hooks and their models refer to each other
    models = dict(_arms(base, arms, plan, Path(staging), share, rng))
    del base
    tokens = random_tokens(plan, models[CONTROL])
    with torch.no_grad():  # as `generate` runs
        for batch, length in plan.points():
            prompt = prompt_of(tokens, batch, length).to(plan.torch_device)
            for phase in plan.workload.phases:
                report(phase)
                for arm, blocks in _timed(phase, models, prompt, plan, rng).items():
                    found.append(Pairs(process, str(phase), arm, batch, length, **vars(blocks), shared_weights=share))
    if card is not None:
        seen.append(card.snapshot())  # at once, before the card cools down
    return LatencySamples(found, [asdict(one) for one in seen], card_warnings(seen))


def _timed(
    phase: Phase, models: Mapping[str, PreTrainedModel], prompt: Tensor, plan: Plan, rng: random.Random
) -> dict[str, Blocks]:
    """Every arm in turn with the control. Its caches and graphs are freed before the next ones are made."""
    steps = {arm: PHASES[phase](model, prompt, plan.runtime) for arm, model in models.items()}
    return time_pairs(steps.pop(CONTROL), steps, timing_config(plan), clock_for(plan.torch_device), rng)


def _training_pairs(plan: Plan, base: PreTrainedModel, process: int, share: bool, rng: random.Random) -> Pairs:
    """Training steps of the method and of its reference, each on a copy of the base, timed in turn."""
    assert plan.reference is not None
    work = plan.workload
    tokens = prompt_of(random_tokens(plan, base), work.train_batch_size * work.train_steps, work.train_length)
    steps: dict[str, TrainSteps] = {}
    methods = {UNMERGED: (plan.method, plan.learning_rate), REFERENCE: (plan.reference, plan.reference_learning_rate)}
    for arm in rng.sample(list(methods), 2):
        method, rate = methods[arm]
        torch.manual_seed(plan.seed)
        attached = method.attach(_copy(base, share))
        attached.model.train()
        steps[arm] = TrainSteps(Trainer(plan, attached, tokens.to(plan.torch_device), rate))
    timed = time_pairs(steps.pop(REFERENCE), steps, timing_config(plan), clock_for(plan.torch_device), rng)
    blocks = timed[UNMERGED]
    return Pairs(
        process, TRAIN, UNMERGED, work.train_batch_size, work.train_length, **vars(blocks), shared_weights=share
    )


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


def timing_config(plan: Plan) -> TimingConfig:
    """How much one process measures."""
    precision = plan.precision
    return TimingConfig(precision.pairs, precision.warmup_steps, precision.discarded_steps, precision.block_seconds)


def random_tokens(plan: Plan, model: PreTrainedModel) -> Tensor:
    """Token ids [4096] for prompts. Latency does not depend on them."""
    vocabulary = embedding_shape(model)[0]
    return torch.randint(vocabulary, (4096,), generator=torch.Generator().manual_seed(plan.seed))


def _arms(
    base: PreTrainedModel, arms: Sequence[str], plan: Plan, staging: Path, share: bool, rng: random.Random
) -> Iterator[tuple[str, PreTrainedModel]]:
    """The arms' models, built in random order, so that an arm's place in memory does not depend on the arm."""
    for arm in rng.sample(arms, len(arms)):
        model = _copy(base, share)
        if arm in (UNMERGED, MERGED, REFERENCE):
            reference = arm == REFERENCE
            method = plan.reference if reference and plan.reference is not None else plan.method
            attached = method.load(model, staging / REFERENCE / CHECKPOINT if reference else staging / CHECKPOINT)
            if arm == MERGED:
                attached.merge()
            model = attached.model
        yield arm, model.eval()


def _copy(base: PreTrainedModel, share: bool) -> PreTrainedModel:
    """A copy of the model with its own weights or, with ``share``, with the same storage."""
    memo = {id(tensor): _alias(tensor) for tensor in weight_tensors(base)} if share else {}
    return copy.deepcopy(base, memo)


def _alias(tensor: Tensor) -> Tensor:
    """The same storage. A parameter becomes another object, because one model may train what another freezes."""
    return nn.Parameter(tensor.detach(), requires_grad=False) if type(tensor) is nn.Parameter else tensor


def must_share(plan: Plan, model: PreTrainedModel, arms: int) -> bool:
    """Whether the arms share storage, because they must or because so many copies do not fit."""
    if plan.device.sharing is not Sharing.auto:
        return plan.device.sharing is Sharing.share
    weights = sum(tensor.numel() * tensor.element_size() for tensor in weight_tensors(model))
    # the base is in memory already, and is freed when all arms have their copies
    return arms * (weights + _cache_bytes(plan, model)) > 0.8 * _free_bytes(plan.torch_device)


def _cache_bytes(plan: Plan, model: PreTrainedModel) -> int:
    """Keys and values of one arm at the largest workload point, virtual tokens included."""
    sizes = sizes_of(model)
    tokens = max(plan.workload.prompt_lengths) + plan.method.virtual_tokens + MAX_STEPS
    each = 2 * len(sizes.layers) * sizes.kv_size * model.dtype.itemsize
    return max(plan.workload.batch_sizes) * tokens * each


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62  # unknown: copies are the rule
