"""P-tuning in peft's format, which keeps the vectors that the encoder made and not the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from methods.architectures import embedding_shape, sizes_of
from methods.checkpoint import PeftCheckpoint
from methods.p_tuning import PTuning, PTuningAttached
from methods.peft_format.virtual_tokens import prompt_checkpoint, read_prompt, refuse_unknown_prompt

PEFT_TYPE = "P_TUNING"
ENCODER, ENCODER_WIDTH = "encoder_reparameterization_type", "encoder_hidden_size"
ENCODER_KEYS = (ENCODER, ENCODER_WIDTH, "encoder_num_layers", "encoder_dropout")
"""Keys that describe the encoder. Its depth and dropout are history once it has made the vectors."""


def to_peft(attached: PTuningAttached) -> PeftCheckpoint:
    """The vectors [k, d] that the encoder makes now, or made when training ended."""
    model, method = attached.base, cast(PTuning, attached.method)
    width, heads = embedding_shape(model)[1], sizes_of(model).heads
    encoder = {ENCODER: method.encoder.value.upper(), ENCODER_WIDTH: method.width(model)}
    return prompt_checkpoint(model, PEFT_TYPE, attached.shipped()["prompt"], width, heads, **encoder)


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: PTuning | None
) -> tuple[PTuning, Mapping[str, Tensor]]:
    """The inverse of `to_peft`; a ``method`` of None is read from the configuration, as in checkpoints of peft's own.

    Raises:
        MethodError: the tensor does not fit, or the configuration asks for what is not supported here.
    """
    if method is None:
        config = checkpoint.config
        refuse_unknown_prompt(config, ENCODER_KEYS)
        method = PTuning.from_settings(
            {
                "num_virtual_tokens": config.get("num_virtual_tokens"),
                "encoder": str(config.get(ENCODER, "MLP")).lower(),
                "encoder_hidden_size": config.get(ENCODER_WIDTH),
            }
        )
    shape = (method.num_virtual_tokens, embedding_shape(model)[1])
    return method, {"prompt": read_prompt(checkpoint.tensors, shape, method.name)}
