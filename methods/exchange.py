"""The words of Hugging Face peft (https://github.com/huggingface/peft): its configuration, its names of tensors.

Checkpoints of the methods that both have go either way without peft being there; `methods.exchange_lora` has what is
particular to low-rank ones. What a configuration of peft asks for and ours lack is refused: a key that is not read must
be switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor
from transformers import PreTrainedModel

from methods.anatomy import anatomy_of
from methods.checkpoint import PeftForm, expect
from methods.errors import MethodError

PROMPT = "prompt_embeddings"
"""peft's one tensor of a method with virtual tokens."""
INDIFFERENT = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip
"""Keys that do not change what a trained adapter computes (of the task there is a check of its own)."""
INSTEAD = "load it with Hugging Face peft itself (here: the method 'peft')"


def refuse_unknown(config: Mapping[str, object], read: Collection[str]) -> None:
    """Refuses a configuration that asks for more than the keys ``read``.

    Raises:
        MethodError: naming the key and its value.
    """
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        raise MethodError(f"the checkpoint was made for task_type {task}, here are only CAUSAL_LM models; {INSTEAD}")
    for key, value in config.items():
        off = value is None or value is False or value in ("", "none", [], {})
        if not off and key not in INDIFFERENT and key not in read:
            raise MethodError(f"the checkpoint's {key} ({short(value)}) is nothing that ours can do; {INSTEAD}")


def short(value: object) -> str:
    """A value for a message of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def head(model: PreTrainedModel, peft_type: str) -> dict[str, object]:
    """What every configuration begins with."""
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": model.name_or_path or None,
    }


def prompt_form(
    model: PreTrainedModel, peft_type: str, prompt: Tensor, width: int, heads: int, **settings: object
) -> PeftForm:
    """``prompt`` [k, numbers of one virtual token]; ``width`` is that of one vector, which ``heads`` share."""
    sizes = {
        "num_virtual_tokens": len(prompt),
        "token_dim": width,
        "num_layers": len(anatomy_of(model).layers),
        "num_attention_heads": heads,
        "num_transformer_submodules": 1,
    }
    return PeftForm({**head(model, peft_type), **sizes, **settings}, {PROMPT: prompt})


def read_prompt(tensors: Mapping[str, Tensor], shape: tuple[int, int], method: str) -> Tensor:
    """The tensor [k, numbers of one virtual token].

    Raises:
        MethodError: it is missing, of another shape, or not alone.
    """
    expect(tensors, {PROMPT: shape}, method)
    return tensors[PROMPT]


def refuse_unknown_prompt(config: Mapping[str, object], read: Collection[str]) -> None:
    """`refuse_unknown` for methods with virtual tokens, of which encoder-decoder models need twice as many."""
    sizes = ("token_dim", "num_layers", "num_attention_heads")  # the tensor's shape is checked instead
    refuse_unknown(config, {*read, *sizes, "num_virtual_tokens", "num_transformer_submodules"})
    if config.get("num_transformer_submodules") not in (None, 1):
        raise MethodError(f"the checkpoint's num_transformer_submodules is of encoder-decoder models; {INSTEAD}")
