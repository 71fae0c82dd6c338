"""The configuration of a checkpoint of peft, ``adapter_config.json``: what every one begins with, what is refused.

A key that no method here reads must be switched off in the checkpoint, or it is refused: its meaning would be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transformers import PreTrainedModel

from methods.errors import MethodError

IRRELEVANT_KEYS = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config",
}  # fmt: skip
"""Keys that do not change what a trained method computes. The task is checked on its own."""
USE_PEFT = "load the checkpoint with Hugging Face peft itself (methods.peft.Peft)"
"""Advice that ends a message about something that peft can do and the methods here can't."""
INITS_THAT_KEEP_THE_BASE: tuple[object, ...] = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the base as it is. The others take A and B out of the base weights."""


def config_head(model: PreTrainedModel, peft_type: str) -> dict[str, object]:
    """The keys that every configuration begins with."""
    return {
        "peft_type": peft_type,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": model.name_or_path or None,
    }


def refuse_unknown(config: Mapping[str, object], read: Collection[str]) -> None:
    """Refuses a configuration that asks for more than the keys ``read``.

    Raises:
        MethodError: naming the key and its value.
    """
    if (task := config.get("task_type")) not in (None, "CAUSAL_LM"):
        raise MethodError(
            f"the checkpoint was made for task_type {task}; the methods here run CAUSAL_LM models only; {USE_PEFT}"
        )
    for key, value in config.items():
        off = value is None or value is False or value in ("", "none", [], {})
        if not off and key not in IRRELEVANT_KEYS and key not in read:
            raise MethodError(
                f"{key} of the checkpoint ({shorten(value)}) is not supported by this implementation; {USE_PEFT}"
            )


def shorten(value: object) -> str:
    """A value for a message of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
