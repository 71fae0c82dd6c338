"""What a probe is given: a model at one stage of a cell, and all that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tables read the probes' figures without torch
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from bench.workload.corpus import Corpus
    from bench.workload.plan import Plan
    from bench.workload.training import Trainer
    from methods import Attached


class Stage(StrEnum):
    """When a probe runs."""

    BASE = "base"
    """The untouched base model."""
    TRAINING = "training"
    """The method is attached and trains."""
    SERVED = "served"
    """The method in its serving form, unmerged, and once more merged where that is defined."""


@dataclass
class Subject:
    """A model at one stage."""

    stage: Stage
    state: str
    plan: Plan
    base: PreTrainedModel
    """The model that the method is attached to."""
    model: PreTrainedModel
    """What is called: the base, or what the method wraps around it."""
    corpus: Corpus
    base_parameters: int
    attached: Attached | None = None
    trainer: Trainer | None = None
    checkpoint: Path | None = None
    """The folder that was saved once training had ended."""
    trained_facts: Mapping[str, object] = field(default_factory=dict)
    """`methods.Attached.metadata` at the end of training."""
    attach_error: float | None = None
    """How far the outputs of the method lie from the base's before it trains."""
    reload_error: float | None = None
    """How far the outputs of the method, read from its checkpoint into a new base, lie from those it was saved with."""
    merge_error: float | None = None
    """How far the merged outputs lie from the unmerged ones; see `bench.worker.figures`."""

    @property
    def device(self) -> torch.device:
        return self.plan.torch_device

    def prompt(self, batch_size: int, length: int) -> Tensor:
        """Held-out tokens [B, T] on the device, repeated where there are too few."""
        return prompt_of(self.corpus.held_out, batch_size, length).to(self.device)


def prompt_of(tokens: Tensor, batch_size: int, length: int) -> Tensor:
    """The first ``batch_size`` x ``length`` of ``tokens``, from the start again where they end."""
    flat = tokens.flatten()
    repeats = -(-batch_size * length // flat.numel())
    return flat.repeat(repeats)[: batch_size * length].view(batch_size, length)
