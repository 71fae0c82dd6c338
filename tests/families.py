"""Tiny random models of every supported family, for the conformance matrix."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 64
ROTARY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**ROTARY, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": None},
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "gemma": {**GROUPED, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2": GPT2,
    "openai-gpt": GPT2,
    "gpt_bigcode": {**GPT2, "multi_query": True},
    "gpt_bigcode-heads": {**GPT2, "multi_query": False},
    "gpt_neox": {
        **ROTARY,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    },
    "opt": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}


TYPES = {**dict(zip(FAMILIES, FAMILIES, strict=True)), "gpt_bigcode-heads": "gpt_bigcode"}
"""What transformers calls each of them."""
WITHOUT_CACHE = ("openai-gpt",)
TWINS = {"mistral": "llama", "qwen2": "llama", "openai-gpt": "gpt2", "gpt_bigcode-heads": "gpt_neox"}
"""Families whose modules and layouts are those of another one, whose tests see the same faults. Each test but those of
`tests/test_layouts.py` is repeated on them in a longer run alone (``pytest -m longer``)."""


def build(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model of ``family``, in evaluation mode. Weights are spread so that outputs are not near uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(TYPES[family], **FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model.eval()
