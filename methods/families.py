"""Families of models: the names of their modules, and which rows of a fused matrix are queries, keys and values.

To add a family, add a `Family` to `FAMILIES`, and to `LAYOUTS` if it has a fused matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

FUSED = "qkv"
"""The role of a matrix that holds queries, keys and values."""
PARTS = ("q", "k", "v")


class Layout(Enum):
    """The order of the rows of a fused matrix."""

    IN_TURN = "all queries, then all keys, then all values"
    BY_HEAD = "queries, keys and values of the first head, then of the second, and so on"


@dataclass(frozen=True)
class Family:
    """The module names of one family of models."""

    name: str
    layers: str
    """Path of the list of decoder layers."""
    roles: Mapping[str, str]
    """Path of every linear module of a layer, relative to the layer, by its role. ``all-linear`` stands for them."""


LLAMA = Family(
    "llama",  # Llama, Mistral, Qwen2, Qwen3, Gemma
    "model.layers",
    {
        **{role: f"self_attn.{role}_proj" for role in (*PARTS, "o")},
        **{role: f"mlp.{role}_proj" for role in ("gate", "up", "down")},
    },
)
OPT = Family(
    "opt",
    "model.decoder.layers",
    {
        **{role: f"self_attn.{role}_proj" for role in PARTS},
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
)
GPT2 = Family(
    "gpt2",  # GPT, too
    "transformer.h",
    {FUSED: "attn.c_attn", "o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
)
GPT_BIGCODE = replace(GPT2, name="gpt_bigcode")
GPT_NEOX = Family(
    "gpt_neox",
    "gpt_neox.layers",
    {
        FUSED: "attention.query_key_value",
        "o": "attention.dense",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    },
)
FAMILIES = (LLAMA, OPT, GPT2, GPT_BIGCODE, GPT_NEOX)
"""Where two have the same names, a model belongs to the one that its configuration names, or else to the first."""

LAYOUTS = {
    ("gpt2", False): Layout.IN_TURN,
    ("openai-gpt", False): Layout.IN_TURN,
    ("gpt_bigcode", False): Layout.BY_HEAD,
    ("gpt_bigcode", True): Layout.IN_TURN,
    ("gpt_neox", False): Layout.BY_HEAD,
}
"""The layouts that are known, by transformers' ``model_type`` and by whether heads share keys and values.

Names do not tell a layout: GPT-BigCode has those of GPT-2.
"""
