"""What peft's checkpoints of methods with virtual tokens share: one tensor with a row per virtual token."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from methods.architectures import sizes_of
from methods.checkpoint import PeftCheckpoint, expect
from methods.errors import MethodError
from methods.peft_format.config import USE_PEFT, config_head, refuse_unknown

TENSOR = "prompt_embeddings"
"""The name of the one tensor."""


def prompt_checkpoint(
    model: PreTrainedModel, peft_type: str, prompt: Tensor, width: int, heads: int, **settings: object
) -> PeftCheckpoint:
    """The checkpoint of ``prompt`` [k, numbers per virtual token].

    ``width`` is the size of one vector, ``heads`` the number of attention heads that share it, and ``settings`` are
    the keys that this type of peft has besides.
    """
    sizes = {
        "num_virtual_tokens": len(prompt),
        "token_dim": width,
        "num_layers": len(sizes_of(model).layers),
        "num_attention_heads": heads,
        "num_transformer_submodules": 1,
    }
    return PeftCheckpoint({**config_head(model, peft_type), **sizes, **settings}, {TENSOR: prompt})


def read_prompt(tensors: Mapping[str, Tensor], shape: tuple[int, int], method: str) -> Tensor:
    """The tensor [k, numbers per virtual token].

    Raises:
        MethodError: it is missing, of another shape, or not alone.
    """
    expect(tensors, {TENSOR: shape}, method)
    return tensors[TENSOR]


def refuse_unknown_prompt(config: Mapping[str, object], read: Collection[str]) -> None:
    """`refuse_unknown` for methods with virtual tokens, of which encoder-decoder models need twice as many."""
    sizes = ("token_dim", "num_layers", "num_attention_heads")  # the tensor's shape is checked instead
    refuse_unknown(config, {*read, *sizes, "num_virtual_tokens", "num_transformer_submodules"})
    if config.get("num_transformer_submodules") not in (None, 1):
        raise MethodError(f"num_transformer_submodules of the checkpoint is for encoder-decoder models; {USE_PEFT}")
