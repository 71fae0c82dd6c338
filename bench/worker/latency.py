"""Latency replicates: in one process, the states of a cell's method are timed in turn with the control."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config.schema import MAX_STEPS, Phase, Sharing
from bench.instruments.cache import cache_bytes
from bench.instruments.card import Nvml, card_warnings
from bench.instruments.steps import PHASES, NoCache, filled_cache
from bench.instruments.timing import Blocks, clock_for, time_pairs
from bench.records.record import AA, CONTROL, MERGED, REFERENCE, TRAIN, UNMERGED, Pairs
from bench.records.results import LatencySamples
from bench.worker.copies import copy_of, fits, weight_bytes
from bench.worker.setup import CHECKPOINT, Report, random_tokens, start, timing_config
from bench.worker.training import training_pairs
from bench.workload.models import load_model
from bench.workload.plan import Plan
from bench.workload.subject import prompt_of


def measure_pairs(
    config: Mapping[str, Any], staging: str, states: Sequence[str], peak_bytes: int, process: int, report: Report
) -> LatencySamples:
    """One replicate: every state and a second control in turn with the control, at every workload point; and training
    steps in turn with those of the training reference.

    ``peak_bytes``: of a training step of the method, as it was measured.
    """
    plan = start(config, staging)
    rng = random.Random(f"{plan.seed}-{process}")
    base = load_model(plan.model, plan.torch_device, plan.seed)
    arms = [CONTROL, *([AA] if plan.precision.second_control else []), *states]
    share = must_share(plan, base, len(arms))
    samples = LatencySamples()
    card = Nvml.of(plan.torch_device) if plan.torch_device.type == "cuda" else None
    seen = [] if card is None else [card.snapshot()]
    if plan.train_reference is not None:  # before the arms exist, because training needs room of its own
        report(TRAIN)
        samples.add(training_pairs(plan, base, peak_bytes, share, process, rng))
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
                    pairs = Pairs(process, str(phase), arm, batch, length, **vars(blocks), shared_weights=share)
                    samples.pairs.append(pairs)
    if card is not None:
        seen.append(card.snapshot())  # at once, before the card cools down
    samples.add(LatencySamples(cards=[asdict(one) for one in seen], warnings=card_warnings(seen)))
    return samples


def _timed(
    phase: Phase, models: Mapping[str, PreTrainedModel], prompt: Tensor, plan: Plan, rng: random.Random
) -> dict[str, Blocks]:
    """Every arm in turn with the control; nothing of a phase that the model does not have.

    Its caches and graphs are freed before the next ones are made.
    """
    try:
        steps = {arm: PHASES[phase](model, prompt, plan.runtime) for arm, model in models.items()}
    except NoCache:
        return {}  # why is recorded by `bench.probes.latency`
    return time_pairs(steps.pop(CONTROL), steps, timing_config(plan), clock_for(plan.torch_device), rng)


def _arms(
    base: PreTrainedModel, arms: Sequence[str], plan: Plan, staging: Path, share: bool, rng: random.Random
) -> Iterator[tuple[str, PreTrainedModel]]:
    """The arms' models, built in random order, so that an arm's place in memory does not depend on the arm."""
    for arm in rng.sample(arms, len(arms)):
        model = copy_of(base, share)
        if arm in (UNMERGED, MERGED, REFERENCE):
            reference = arm == REFERENCE
            method = plan.reference if reference and plan.reference is not None else plan.method
            attached = method.load(model, staging / REFERENCE / CHECKPOINT if reference else staging / CHECKPOINT)
            if arm == MERGED:
                attached.merge()
            model = attached.model
        yield arm, model.eval()


def must_share(plan: Plan, model: PreTrainedModel, arms: int) -> bool:
    """Whether the arms share storage, because they must or because so many copies do not fit."""
    if plan.device.sharing is not Sharing.auto:
        return plan.device.sharing is Sharing.share
    # the base is in memory already, and is freed when all arms have their copies
    return not fits(arms * (weight_bytes(model) + _cache_bytes(plan, model)), plan.torch_device)


def _cache_bytes(plan: Plan, model: PreTrainedModel) -> int:
    """What the cache of one arm holds at the largest workload point, virtual tokens included."""
    tokens = max(plan.workload.prompt_lengths) + plan.method.virtual_tokens + MAX_STEPS
    try:
        with torch.no_grad():
            cache = filled_cache(model, random_tokens(plan, model)[None, :2].to(plan.torch_device))
    except NoCache:
        return 0
    return max(plan.workload.batch_sizes) * cache_bytes(cache, tokens)
