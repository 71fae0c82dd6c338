"""What probes are given: a model at one stage of a cell, and what belongs to it there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.records.record import CONTROL, UNMERGED

if TYPE_CHECKING:  # tables read the probes' metrics without torch
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.workload.corpus import Corpus
    from bench.workload.plan import Plan
    from bench.workload.training import Trainer
    from methods import Attached


@dataclass(frozen=True)
class BaseSubject:
    """The untouched base model."""

    plan: Plan
    base: PreTrainedModel
    corpus: Corpus

    @property
    def state(self) -> str:
        return CONTROL

    @property
    def model(self) -> PreTrainedModel:
        """The model that is called."""
        return self.base

    @property
    def device(self) -> torch.device:
        return self.base.device

    def prompt(self, batch_size: int, length: int) -> Tensor:
        """Held-out tokens [B, T] on the device."""
        return prompt_of(self.corpus.held_out, batch_size, length).to(self.device)


@dataclass(frozen=True)
class TrainingSubject:
    """The method is attached and trains."""

    plan: Plan
    attached: Attached
    trainer: Trainer
    base_parameters: int
    """Parameters of the base before the method was attached."""
    attach_error: float | None = None
    """How far the outputs with the untrained method differ from the base's; None if they were not compared."""

    @property
    def state(self) -> str:
        return UNMERGED

    @property
    def device(self) -> torch.device:
        return self.attached.base.device


@dataclass(frozen=True)
class ServedSubject:
    """The method in the form in which it serves, unmerged or merged."""

    plan: Plan
    attached: Attached
    state: str
    corpus: Corpus
    base_parameters: int
    """Parameters of the base before the method was attached."""
    checkpoint_bytes: int | None = None
    """Size of the checkpoint's files; None if another package writes them and has not written them yet."""
    reload_error: float | None = None
    """How far the outputs differ once the checkpoint is loaded into a new base; None if they were not compared."""
    merge_error: float | None = None
    """How far the merged outputs differ from the unmerged ones; None if unmerged."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """`methods.Attached.metadata` at the end of training."""

    @property
    def base(self) -> PreTrainedModel:
        """The model that the method was attached to."""
        return self.attached.base

    @property
    def model(self) -> PreTrainedModel:
        """The model that is called: the base, or what the method wraps around it."""
        return self.attached.model

    @property
    def device(self) -> torch.device:
        return self.base.device

    def prompt(self, batch_size: int, length: int) -> Tensor:
        """Held-out tokens [B, T] on the device."""
        return prompt_of(self.corpus.held_out, batch_size, length).to(self.device)


InferenceSubject = BaseSubject | ServedSubject
"""A model that predicts text."""
Subject = BaseSubject | TrainingSubject | ServedSubject


def parameter_count(parameters: Iterable[Tensor]) -> int:
    """Numbers that parameters hold, those of a shared one once, and of a quantized one those that it stands for."""
    unique = {id(parameter): parameter for parameter in parameters}.values()
    return sum(_numbers(parameter) for parameter in unique)


def _numbers(parameter: Tensor) -> int:
    state = getattr(parameter, "quant_state", None)  # bitsandbytes packs two numbers into a byte
    return parameter.numel() if state is None else math.prod(state.shape)


def prompt_of(tokens: Tensor, batch_size: int, length: int) -> Tensor:
    """The first ``batch_size`` x ``length`` of ``tokens``, repeated if there are too few."""
    flat = tokens.flatten()
    repeats = -(-batch_size * length // flat.numel())
    return flat.repeat(repeats)[: batch_size * length].view(batch_size, length)
