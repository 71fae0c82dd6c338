"""Architectures of models: where a model keeps its layers and its linear modules, and how large they are.

Methods do not search for modules by substring. They ask for roles (``q``, ``v``, ``down``, ...) and get `Projection`
objects, which also know their rows of a fused matrix. `methods.families` has the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.errors import MethodError
from methods.families import FAMILIES, FUSED, LAYOUTS, PARTS, Family, Layout
from methods.projections import Projection, features, linear_shape

ALL_LINEAR = "all-linear"
SIZES_BEFORE = "_peft_verdict_sizes"
"""Attribute of a model that holds a method: its `Sizes` without that, for the method may stand in a module's place."""


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
    def q_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        return self.kv_heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class Architecture(Sizes):
    """Sizes and module paths of a model of a known family."""

    family: Family
    kind: str
    """What transformers calls the type of the model."""

    def projections(self, model: nn.Module, targets: Sequence[str]) -> list[Projection]:
        """Returns the projections that ``targets`` name, layer by layer.

        A target is a role, the last part of a module's name (``q_proj``, ``c_attn``) or ``all-linear``.

        Raises:
            MethodError: a target matches no module, or a part of a matrix whose layout is unknown; or two targets name
                the same weights.
        """
        roles = [role for target in targets for role in self._roles(target)]
        found = [self._projection(model, layer, role) for layer in range(len(self.layers)) for role in roles]
        for one, other in combinations(found[: len(roles)], 2):
            if one.overlaps(other):
                raise MethodError(
                    f"targets {list(targets)}: {one.role} and {other.role} name the same weights; keep one of them"
                )
        return found

    def _roles(self, target: str) -> Sequence[str]:
        roles = self.family.roles
        if target == ALL_LINEAR:
            return list(roles)
        if target in roles or (target in PARTS and FUSED in roles):
            return [target]
        whole = [role for role, path in roles.items() if path.rpartition(".")[2] == target]
        # GPT-2 calls two modules c_proj. Either may be meant, so both are taken, as other libraries do.
        if not whole:
            known = ", ".join(dict.fromkeys([*PARTS, *roles, ALL_LINEAR]))
            raise MethodError(f"target '{target}' matches no module of a {self.family.name} model; use one of {known}")
        return whole

    def _projection(self, model: nn.Module, layer: int, role: str) -> Projection:
        in_part = role not in self.family.roles
        path = f"{self.layers[layer]}.{self.family.roles[FUSED if in_part else role]}"
        rows, columns = linear_shape(model.get_submodule(path))
        if not in_part:
            return Projection(layer, role, path, columns, rows, rows)
        groups = self.heads if self._layout(role) is Layout.BY_HEAD else 1
        sizes = {"q": self.q_size, "k": self.kv_size, "v": self.kv_size}
        start = sum(sizes[part] for part in PARTS[: PARTS.index(role)]) // groups
        return Projection(layer, role, path, columns, sizes[role], rows, groups, start)

    def _layout(self, role: str) -> Layout:
        layout = LAYOUTS.get((self.kind, self.kv_heads < self.heads))
        if layout is None:
            name = self.family.roles[FUSED].rpartition(".")[2]
            raise MethodError(
                f"target '{role}': which rows of {name} are {role} is not known for a {self.kind} model; adapt the "
                f"whole of it ({FUSED})"
            )
        return layout

    def outputs(self, role: str) -> Iterator[str]:
        """Paths of the modules that play ``role``, layer by layer."""
        return (f"{layer}.{self.family.roles[role]}" for layer in self.layers)


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Recognizes the family of ``model`` by the names of its modules, and reads its sizes from their shapes.

    Raises:
        MethodError: no family fits. The message says what each lacks.
    """
    before = getattr(model, SIZES_BEFORE, None)
    if isinstance(before, Architecture):
        return before
    fitting: list[Family] = []
    reasons: dict[str, str] = {}
    for family in FAMILIES:
        reason = _misfit(model, family)
        if reason is None:
            fitting.append(family)
        elif reason:
            reasons.setdefault(family.layers, f"it has {family.layers} (as {family.name} has), but {reason}")
    if not fitting:
        paths = ", ".join(dict.fromkeys(family.layers for family in FAMILIES))
        reason = "; ".join(reasons.values()) or f"it has none of {paths}"
        raise _unknown(model, f"{reason}; add a family to methods/families.py")
    kind = str(_config(model).model_type)
    family = next((family for family in fitting if family.name == kind), fitting[0])
    return _measured(model, family, kind)


def sizes_of(model: PreTrainedModel) -> Sizes:
    """Reads the sizes of any causal language model, whether its family is known or not.

    Raises:
        MethodError: the model has no list of layers, or its configuration names no attention heads.
    """
    before: Sizes | None = getattr(model, SIZES_BEFORE, None)
    if before is not None:
        return before
    try:
        return architecture_of(model)
    except MethodError:
        return _configured(model)


def _config(model: PreTrainedModel) -> Any:
    return model.config.get_text_config()


def _heads(model: PreTrainedModel) -> int:
    heads = getattr(_config(model), "num_attention_heads", None)
    if heads is None:
        raise MethodError(
            f"the configuration of {type(model).__name__} has no num_attention_heads; use a transformer model"
        )
    return int(heads)


def _configured(model: PreTrainedModel) -> Sizes:
    """The sizes that the configuration gives, for a model of which no more is known."""
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise MethodError(f"{type(model).__name__} has no list of layers")
    # a list within another's modules is part of a layer
    lists = {name: n for name, n in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    layers = max(lists, key=lambda name: lists[name])
    config, heads = _config(model), _heads(model)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    if heads % kv_heads:
        raise MethodError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    return Sizes(
        layers=tuple(f"{layers}.{index}" for index in range(lists[layers])),
        hidden_size=int(config.hidden_size),
        kv_heads=kv_heads,
        head_size=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        heads=heads,
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def _misfit(model: PreTrainedModel, family: Family) -> str | None:
    """Why ``model`` is none of ``family``: an empty string if it has no such list of layers, None if it is one."""
    try:
        layers = model.get_submodule(family.layers)
    except AttributeError:
        return ""
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return "it is no list of layers"
    wanted = set(family.roles.values())
    # every layer is looked at, because some models have layers of more than one kind
    for layer in layers:
        modules = dict(layer.named_modules())
        linear = {name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
        if absent := sorted(wanted - modules.keys()):
            return f"a layer lacks {', '.join(absent)}"
        if surplus := sorted(linear - wanted):
            return f"a layer has linear modules besides: {', '.join(surplus)}"
    places = [id(layer.get_submodule(path)) for layer in layers for path in wanted]
    return None if len(set(places)) == len(places) else "layers share modules"


def _measured(model: PreTrainedModel, family: Family, kind: str) -> Architecture:
    """The sizes that the shapes of the linear modules show; those of the configuration may be meant for others.

    Raises:
        MethodError: the shapes are not those of attention with queries, keys and values, or layers differ.
    """
    config, heads = _config(model), _heads(model)
    hidden_size = int(config.hidden_size)
    layers = tuple(f"{family.layers}.{name}" for name, _ in model.get_submodule(family.layers).named_children())
    widths = {_widths(model, layer, family, hidden_size) for layer in layers}
    (q_size, kv_size), *others = sorted(widths)
    head_size = q_size // heads
    if others or q_size % heads or kv_size < head_size or kv_size % head_size or heads % (kv_size // head_size):
        found = ", ".join(f"{q} and {kv}" for q, kv in sorted(widths))
        raise _unknown(
            model,
            f"it has the names of {family.name}, but its queries and keys ({found} wide) do not make {heads} heads of "
            "one size in every layer: see num_attention_heads and num_key_value_heads",
        )
    return Architecture(
        layers=layers,
        hidden_size=hidden_size,
        kv_heads=kv_size // head_size,
        head_size=head_size,
        heads=heads,
        max_positions=getattr(config, "max_position_embeddings", None),
        family=family,
        kind=kind,
    )


def _widths(model: PreTrainedModel, layer: str, family: Family, d: int) -> tuple[int, int]:
    """(queries, keys) of a layer, all heads together; there are as many values as keys."""
    shapes = {role: features(model.get_submodule(f"{layer}.{path}")) for role, path in family.roles.items()}
    q, inner = shapes["o"][1], shapes["down"][1]
    kv = (shapes[FUSED][0] - q) // 2 if FUSED in shapes else shapes["k"][0]
    expected = {"q": (q, d), "k": (kv, d), "v": (kv, d), FUSED: (q + 2 * kv, d), "o": (d, q)}
    expected |= {"gate": (inner, d), "up": (inner, d), "down": (d, inner)}
    for role, shape in shapes.items():
        if shape != expected[role]:
            path = f"{layer}.{family.roles[role]}"
            raise _unknown(model, f"it has the names of {family.name}, but {path} is {shape} and not {expected[role]}")
    return q, kv


def _unknown(model: PreTrainedModel, reason: str) -> MethodError:
    return MethodError(f"{type(model).__name__} belongs to no known model family: {reason}")


def embedding_shape(model: PreTrainedModel) -> tuple[int, int]:
    """(tokens, width) of the input embeddings. The width is the hidden size, except in OPT-350m, which projects it."""
    rows, columns = cast(Tensor, model.get_input_embeddings().weight).shape
    return rows, columns


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter."""
    return next(model.parameters()).device
