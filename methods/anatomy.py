"""Where a model family keeps its layers, its projections and its sizes.

Methods never look for modules by substring. They ask for roles (``q``, ``v``, ``down``, ...) and get `Projection`
objects, which also know how a fused matrix is laid out. To add a family, add a `Family` to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.projections import Projection, linear_shape

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Slot:
    """Where a role lies inside one decoder layer.

    A fused matrix holds ``parts`` roles; ``by_head`` says whether they alternate head by head (GPT-NeoX) or stand one
    after another (GPT-2).
    """

    path: str
    part: int = 0
    parts: int = 1
    by_head: bool = False


@dataclass(frozen=True)
class Family:
    """Names of one model family. Paths of slots are relative to a decoder layer."""

    name: str
    layers: str
    slots: dict[str, Slot]
    modules: tuple[str, ...]
    """Roles that together name every linear module of a layer once: the meaning of ``all-linear``."""


def _fused(path: str, by_head: bool) -> dict[str, Slot]:
    parts = {role: Slot(path, part, 3, by_head) for part, role in enumerate(("q", "k", "v"))}
    return {**parts, "qkv": Slot(path)}


FAMILIES = (
    Family(
        "llama",  # Llama, Mistral, Qwen2, Qwen3, Gemma
        "model.layers",
        {
            **{role: Slot(f"self_attn.{role}_proj") for role in ("q", "k", "v", "o")},
            **{role: Slot(f"mlp.{role}_proj") for role in ("gate", "up", "down")},
        },
        ("q", "k", "v", "o", "gate", "up", "down"),
    ),
    Family(
        "opt",
        "model.decoder.layers",
        {
            **{role: Slot(f"self_attn.{role}_proj") for role in ("q", "k", "v")},
            "o": Slot("self_attn.out_proj"),
            "up": Slot("fc1"),
            "down": Slot("fc2"),
        },
        ("q", "k", "v", "o", "up", "down"),
    ),
    Family(
        "gpt2",
        "transformer.h",
        {
            **_fused("attn.c_attn", by_head=False),
            "o": Slot("attn.c_proj"),
            "up": Slot("mlp.c_fc"),
            "down": Slot("mlp.c_proj"),
        },
        ("qkv", "o", "up", "down"),
    ),
    Family(
        "gpt_neox",
        "gpt_neox.layers",
        {
            **_fused("attention.query_key_value", by_head=True),
            "o": Slot("attention.dense"),
            "up": Slot("mlp.dense_h_to_4h"),
            "down": Slot("mlp.dense_4h_to_h"),
        },
        ("qkv", "o", "up", "down"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of one model, whatever its family: L layers, hidden size d, key/value width d_kv = KV heads x head size."""

    layers: tuple[str, ...]
    """Module path of each decoder layer."""
    hidden_size: int
    kv_heads: int
    head_size: int
    heads: int
    max_positions: int | None
    """Longest sequence the model's positions allow, None where it has no limit."""

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class Anatomy(Sizes):
    """Sizes and places of one model of a known family."""

    family: Family

    def projections(self, model: nn.Module, targets: Sequence[str]) -> list[Projection]:
        """The projections that ``targets`` name, layer by layer.

        A target is a role, the last part of a module's name (``q_proj``, ``c_attn``) or ``all-linear``.

        Raises:
            MethodError: a target matches nothing, or the same weights are named twice.
        """
        roles = [role for target in targets for role in self._roles(target)]
        found = [self._projection(model, layer, role) for layer in range(len(self.layers)) for role in roles]
        first = [p for p in found if p.layer == 0]
        for one in first:
            for other in first:
                if (
                    one is not other
                    and one.path == other.path
                    and (one.part == other.part or 1 in (one.parts, other.parts))
                ):
                    raise MethodError(
                        f"targets {list(targets)}: {one.role} and {other.role} name the same weights; keep one"
                    )
        return found

    def _roles(self, target: str) -> Sequence[str]:
        if target == ALL_LINEAR:
            return self.family.modules
        if target in self.family.slots:
            return [target]
        whole = [role for role in self.family.modules if self.family.slots[role].path.rpartition(".")[2] == target]
        # GPT-2 calls two modules c_proj, and either may be meant: both are, as in other libraries.
        if not whole:
            known = ", ".join([*self.family.slots, ALL_LINEAR])
            raise MethodError(f"target '{target}' matches nothing in a {self.family.name} model; use one of {known}")
        return whole

    def _projection(self, model: nn.Module, layer: int, role: str) -> Projection:
        slot = self.family.slots[role]
        path = f"{self.layers[layer]}.{slot.path}"
        rows, columns = linear_shape(model.get_submodule(path))
        groups = self.heads if slot.by_head else 1
        return Projection(layer, role, path, columns, rows // slot.parts, slot.part, slot.parts, groups)

    def outputs(self, role: str) -> Iterator[str]:
        """Paths of the modules with ``role``, layer by layer."""
        return (f"{layer}.{self.family.slots[role].path}" for layer in self.layers)


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Finds the family of ``model`` by the names of its modules.

    Raises:
        MethodError: no family fits; the message lists the names that were looked for.
    """
    family = _family_of(model)
    return Anatomy(family=family, **vars(_sizes(model, family.layers)))


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Sizes of any causal language model: what needs no names of projections.

    Raises:
        MethodError: the model has no layers, or no attention heads.
    """
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise MethodError(f"{type(model).__name__} has no list of layers")
    # a list within another's modules is part of a layer, such as the branches that a method put there
    lists = {name: n for name, n in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    return _sizes(model, max(lists, key=lambda name: lists[name]))


def _sizes(model: PreTrainedModel, layers: str) -> Sizes:
    """``layers`` is the path of the list of decoder layers."""
    config = model.config.get_text_config()
    if getattr(config, "num_attention_heads", None) is None:
        raise MethodError(f"{type(model).__name__} says nothing of attention heads: is it no transformer?")
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    if heads % kv_heads:
        raise MethodError(f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    modules = model.get_submodule(layers)
    assert isinstance(modules, nn.ModuleList)
    return Sizes(
        layers=tuple(f"{layers}.{index}" for index in range(len(modules))),
        hidden_size=int(config.hidden_size),
        kv_heads=kv_heads,
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        heads=heads,
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def _family_of(model: PreTrainedModel) -> Family:
    partial: list[str] = []
    for family in FAMILIES:
        try:
            layers = model.get_submodule(family.layers)
        except AttributeError:
            continue
        wanted = {slot.path for slot in family.slots.values()}
        # each layer, for some families (mixtures of experts) have layers of more than one kind
        lacking = [sorted(wanted - {name for name, _ in layer.named_modules()}) for layer in layers.children()]
        lost = next((names for names in lacking if names), [])
        if lacking and not lost:
            return family
        partial.append(
            f"{family.layers} is there (as in {family.name}) but in a layer these are missing: {', '.join(lost)}"
        )
    kind = type(model).__name__
    looked = ", ".join(family.layers for family in FAMILIES)
    detail = "; ".join(partial) or f"looked for {looked}"
    raise MethodError(
        f"{kind} is of no known model family: {detail}; a family is added in methods/anatomy.py (FAMILIES)"
    )


def embedding_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(tokens, width) of the input embeddings; the width is the hidden size but for OPT-350m, which projects it up."""
    rows, columns = cast(Tensor, model.get_input_embeddings().weight).shape
    return rows, columns


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter."""
    return next(model.parameters()).device
