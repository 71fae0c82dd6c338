"""Architectures of models: where a family of models keeps its layers, its linear modules and its sizes.

Methods do not search for modules by substring. They ask for roles (``q``, ``v``, ``down``, ...) and get `Projection`
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
class ModulePath:
    """The module that plays a role in a decoder layer, or the part of it that does.

    A fused matrix holds ``parts`` roles. With ``by_head`` they alternate head by head (GPT-NeoX), otherwise they follow
    one another (GPT-2).
    """

    path: str
    """Relative to the layer."""
    part: int = 0
    parts: int = 1
    by_head: bool = False


@dataclass(frozen=True)
class Family:
    """The module names of one family of models."""

    name: str
    layers: str
    """Path of the list of decoder layers."""
    roles: dict[str, ModulePath]
    modules: tuple[str, ...]
    """Roles that name every linear module of a layer once. ``all-linear`` stands for them."""


def _fused(path: str, by_head: bool) -> dict[str, ModulePath]:
    parts = {role: ModulePath(path, part, 3, by_head) for part, role in enumerate(("q", "k", "v"))}
    return {**parts, "qkv": ModulePath(path)}


FAMILIES = (
    Family(
        "llama",  # Llama, Mistral, Qwen2, Qwen3, Gemma
        "model.layers",
        {
            **{role: ModulePath(f"self_attn.{role}_proj") for role in ("q", "k", "v", "o")},
            **{role: ModulePath(f"mlp.{role}_proj") for role in ("gate", "up", "down")},
        },
        ("q", "k", "v", "o", "gate", "up", "down"),
    ),
    Family(
        "opt",
        "model.decoder.layers",
        {
            **{role: ModulePath(f"self_attn.{role}_proj") for role in ("q", "k", "v")},
            "o": ModulePath("self_attn.out_proj"),
            "up": ModulePath("fc1"),
            "down": ModulePath("fc2"),
        },
        ("q", "k", "v", "o", "up", "down"),
    ),
    Family(
        "gpt2",
        "transformer.h",
        {
            **_fused("attn.c_attn", by_head=False),
            "o": ModulePath("attn.c_proj"),
            "up": ModulePath("mlp.c_fc"),
            "down": ModulePath("mlp.c_proj"),
        },
        ("qkv", "o", "up", "down"),
    ),
    Family(
        "gpt_neox",
        "gpt_neox.layers",
        {
            **_fused("attention.query_key_value", by_head=True),
            "o": ModulePath("attention.dense"),
            "up": ModulePath("mlp.dense_h_to_4h"),
            "down": ModulePath("mlp.dense_4h_to_h"),
        },
        ("qkv", "o", "up", "down"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model of any family: L layers, hidden size d, key/value width d_kv = key/value heads x head size."""

    layers: tuple[str, ...]
    """Module path of each decoder layer."""
    hidden_size: int
    kv_heads: int
    head_size: int
    heads: int
    max_positions: int | None
    """The longest sequence that the model has positions for, None where there is no limit."""

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class Architecture(Sizes):
    """Sizes and module paths of a model of a known family."""

    family: Family

    def projections(self, model: nn.Module, targets: Sequence[str]) -> list[Projection]:
        """Returns the projections that ``targets`` name, layer by layer.

        A target is a role, the last part of a module's name (``q_proj``, ``c_attn``) or ``all-linear``.

        Raises:
            MethodError: a target matches no module, or two targets name the same weights.
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
                        f"targets {list(targets)}: {one.role} and {other.role} name the same weights; keep one of them"
                    )
        return found

    def _roles(self, target: str) -> Sequence[str]:
        if target == ALL_LINEAR:
            return self.family.modules
        if target in self.family.roles:
            return [target]
        whole = [role for role in self.family.modules if self.family.roles[role].path.rpartition(".")[2] == target]
        # GPT-2 calls two modules c_proj. Either may be meant, so both are taken, as other libraries do.
        if not whole:
            known = ", ".join([*self.family.roles, ALL_LINEAR])
            raise MethodError(f"target '{target}' matches no module of a {self.family.name} model; use one of {known}")
        return whole

    def _projection(self, model: nn.Module, layer: int, role: str) -> Projection:
        place = self.family.roles[role]
        path = f"{self.layers[layer]}.{place.path}"
        rows, columns = linear_shape(model.get_submodule(path))
        groups = self.heads if place.by_head else 1
        return Projection(layer, role, path, columns, rows // place.parts, place.part, place.parts, groups)

    def outputs(self, role: str) -> Iterator[str]:
        """Paths of the modules that play ``role``, layer by layer."""
        return (f"{layer}.{self.family.roles[role].path}" for layer in self.layers)


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Recognizes the family of ``model`` by the names of its modules, and reads its sizes.

    Raises:
        MethodError: no family fits. The message lists the names that were searched for.
    """
    family = _family_of(model)
    return Architecture(family=family, **vars(_sizes(model, family.layers)))


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Reads the sizes of any causal language model, whether its family is known or not.

    Raises:
        MethodError: the model has no list of layers, or its configuration names no attention heads.
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
        raise MethodError(
            f"the configuration of {type(model).__name__} has no num_attention_heads; use a transformer model"
        )
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    if heads % kv_heads:
        raise MethodError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
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
        wanted = {place.path for place in family.roles.values()}
        # every layer is looked at, because mixtures of experts have layers of more than one kind
        absent = [sorted(wanted - {name for name, _ in layer.named_modules()}) for layer in layers.children()]
        missing = next((names for names in absent if names), [])
        if absent and not missing:
            return family
        partial.append(f"it has {family.layers} (as {family.name} has), but a layer lacks {', '.join(missing)}")
    kind = type(model).__name__
    searched = ", ".join(family.layers for family in FAMILIES)
    detail = "; ".join(partial) or f"it has none of {searched}"
    raise MethodError(
        f"{kind} belongs to no known model family: {detail}; add a family to FAMILIES in methods/architectures.py"
    )


def embedding_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(tokens, width) of the input embeddings. The width is the hidden size, except in OPT-350m, which projects it."""
    rows, columns = cast(Tensor, model.get_input_embeddings().weight).shape
    return rows, columns


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter."""
    return next(model.parameters()).device
