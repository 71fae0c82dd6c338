"""Prompt tuning in peft's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from methods.architectures import embedding_shape, sizes_of
from methods.checkpoint import PeftCheckpoint
from methods.peft_format.virtual_tokens import prompt_checkpoint, read_prompt, refuse_unknown_prompt
from methods.prompt_tuning import Init, PromptAttached, PromptTuning

PEFT_TYPE = "PROMPT_TUNING"
INITS = {Init.vocabulary: "SAMPLE_VOCAB", Init.random: "RANDOM"}
"""What peft calls the start of the vectors."""
INIT_KEYS = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
"""Keys that say where the vectors started. After training that is history."""


def to_peft(attached: PromptAttached) -> PeftCheckpoint:
    """The vectors [k, d] as they stand before the input."""
    model, init = attached.base, cast(PromptTuning, attached.method).init
    width, heads = embedding_shape(model)[1], sizes_of(model).heads
    return prompt_checkpoint(
        model, PEFT_TYPE, attached.shipped()["prompt"], width, heads, prompt_tuning_init=INITS[init]
    )


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: PromptTuning | None
) -> tuple[PromptTuning, Mapping[str, Tensor]]:
    """The inverse of `to_peft`; a ``method`` of None is read from the configuration, as in checkpoints of peft's own.

    Raises:
        MethodError: the tensor does not fit, or the configuration asks for what is not supported here.
    """
    if method is None:
        config = checkpoint.config
        refuse_unknown_prompt(config, INIT_KEYS)
        init = Init.random if config.get("prompt_tuning_init") == INITS[Init.random] else Init.vocabulary
        settings = {"num_virtual_tokens": config.get("num_virtual_tokens"), "init": init}
        method = PromptTuning.from_settings(settings)
    shape = (method.num_virtual_tokens, embedding_shape(model)[1])
    return method, {"prompt": read_prompt(checkpoint.tensors, shape, method.name)}
