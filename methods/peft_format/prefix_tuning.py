"""Prefix tuning in peft's format: a row per virtual token, layer by layer, keys before values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from methods.architectures import architecture_of
from methods.checkpoint import PeftCheckpoint
from methods.peft_format.virtual_tokens import prompt_checkpoint, read_prompt, refuse_unknown_prompt
from methods.prefix_tuning import PrefixAttached, PrefixTuning

PEFT_TYPE = "PREFIX_TUNING"


def to_peft(attached: PrefixAttached) -> PeftCheckpoint:
    """The prefix [L, 2, k, d_kv] as [k, L * 2 * d_kv]."""
    model, method = attached.base, attached.method
    architecture = architecture_of(model)
    rows = attached.shipped()["prefix"].permute(2, 0, 1, 3).flatten(1)
    return prompt_checkpoint(
        model,
        PEFT_TYPE,
        rows,
        architecture.kv_size,
        architecture.kv_heads,
        prefix_projection=method.reparametrize,
        encoder_hidden_size=method.encoder_hidden_size or architecture.kv_size,
    )


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: PrefixTuning | None
) -> tuple[PrefixTuning, Mapping[str, Tensor]]:
    """The inverse of `to_peft`; a ``method`` of None is read from the configuration, as in checkpoints of peft's own.

    Raises:
        MethodError: the tensor does not fit, or the configuration asks for what is not supported here.
    """
    if method is None:
        config = checkpoint.config
        refuse_unknown_prompt(config, ("prefix_projection", "encoder_hidden_size", "init_weights"))
        method = PrefixTuning.from_settings(
            {
                "num_virtual_tokens": config.get("num_virtual_tokens"),
                "reparametrize": bool(config.get("prefix_projection", False)),
                "encoder_hidden_size": config.get("encoder_hidden_size"),
            }
        )
    layers, two, k, d = method.shape(model)
    rows = read_prompt(checkpoint.tensors, (k, layers * two * d), method.name)
    return method, {"prefix": rows.unflatten(1, (layers, two, d)).permute(1, 2, 0, 3)}
