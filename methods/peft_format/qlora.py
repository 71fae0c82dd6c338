"""QLoRA in peft's format, which is that of LoRA: nothing in it says that the base was quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from methods.checkpoint import PeftCheckpoint
from methods.lora import LowRankAttached
from methods.peft_format.lora import terms_of
from methods.peft_format.low_rank import low_rank_checkpoint, split
from methods.qlora import Qlora

PEFT_TYPE = None  # a checkpoint of peft's own becomes `methods.lora.Lora`


def to_peft(attached: LowRankAttached) -> PeftCheckpoint:
    """A and B of every target module."""
    return low_rank_checkpoint(attached, terms_of(cast(Qlora, attached.method).lora))


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: Qlora | None
) -> tuple[Qlora, Mapping[str, Tensor]]:
    """The inverse of `to_peft`.

    Raises:
        MethodError: the tensors do not fit.
    """
    assert method is not None  # as PEFT_TYPE says
    projections = method.lora.projections(model)
    return method, split(checkpoint.tensors, projections, checkpoint.ranks, method.name)
