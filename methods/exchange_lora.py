"""LoRA checkpoints in the words of Hugging Face peft (https://github.com/huggingface/peft).

Where peft adapts a fused matrix (GPT-2 and GPT-NeoX keep q, k and v in one) and we adapt its parts, peft gets one
product for the whole: the parts' A one below another, and each part's B in its own rows and columns of an otherwise
empty B.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from methods.anatomy import ALL_LINEAR, Projection, anatomy_of
from methods.checkpoint import PeftForm, expect
from methods.errors import MethodError
from methods.exchange import INSTEAD, head, short
from methods.validators import PositiveInt, check_value

SOUND_STARTS: tuple[object, ...] = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the base as it is; those left out take from it what they put into A, B."""

Product = tuple[Projection, Tensor, Tensor]
"""A projection with its A [r, in] and B [out, r]."""


@dataclass(frozen=True)
class Terms:
    """The settings of a LoRA that peft and ours share."""

    alpha: float
    rank: int
    rslora: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """By what B A is multiplied: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def alpha_at(self, rank: int) -> float:
        """The alpha that gives the same scale at another rank."""
        ratio = rank / self.rank
        alpha = self.alpha * (math.sqrt(ratio) if self.rslora else ratio)
        return int(alpha) if float(alpha).is_integer() else alpha


def lora_form(model: PreTrainedModel, products: Sequence[Product], terms: Terms, transposed: bool) -> PeftForm:
    """All products as a LoRA checkpoint; modules without any rank are left out, for peft has none of rank 0.

    ``transposed`` says that the base keeps its weights as [in, out].
    """
    if not any(len(a) for _, a, _ in products):  # peft needs a module: one that adds nothing
        projection, a, b = products[0]
        products = [(projection, a.new_zeros(1, a.shape[1]), b.new_zeros(len(b), 1)), *products[1:]]
    by_path: dict[str, list[Product]] = {}
    for product in products:
        by_path.setdefault(product[0].path, []).append(product)
    fused = {path: _fuse(parts) for path, parts in by_path.items() if any(len(a) for _, a, _ in parts)}
    ranks = {path: len(a) for path, (a, _) in fused.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    other = {
        name: rank
        for rank in sorted(set(ranks.values()) - {usual})
        for name in _names(model, [path for path in ranks if ranks[path] == rank])
    }
    config = {
        **head(model, "LORA"),
        "r": usual,
        "lora_alpha": terms.alpha_at(usual),
        "use_rslora": terms.rslora,
        "lora_dropout": terms.dropout,
        "target_modules": _names(model, list(ranks)),
        "rank_pattern": other,
        "alpha_pattern": {name: terms.alpha_at(rank) for name, rank in other.items()},
        "fan_in_fan_out": transposed,
        "bias": "none",
        "init_lora_weights": True,
        "use_dora": False,
    }
    pairs = {path: dict(zip("AB", pair, strict=True)) for path, pair in fused.items()}
    tensors = {_weight(path, part): tensor for path, pair in pairs.items() for part, tensor in pair.items()}
    return PeftForm(config, tensors, {projection.label: len(a) for projection, a, _ in products})


def _weight(path: str, part: str) -> str:
    return f"base_model.model.{path}.lora_{part}.weight"


def _fuse(parts: Sequence[Product]) -> tuple[Tensor, Tensor]:
    """A [R, in] and B [rows, R] of a whole module from those of its parts, R being the sum of their ranks."""
    first, a, b = parts[0]
    if first.parts == 1:
        return a, b
    stacked = torch.cat([a for _, a, _ in parts])
    whole_b = b.new_zeros(first.parts * first.out_features, len(stacked))
    start = 0
    for projection, a, b in parts:
        projection.pick(whole_b.t())[start : start + len(a)] = projection.shape(b.t())
        start += len(a)
    return stacked, whole_b


def split(
    tensors: Mapping[str, Tensor], projections: Sequence[Projection], ranks: Mapping[str, int], method: str
) -> dict[str, Tensor]:
    """``label.A`` [r, in] and ``label.B`` [out, r] of every projection: the inverse of `lora_form`.

    Raises:
        MethodError: a tensor is missing, surplus or of another shape, or holds more than the projections' products.
    """
    by_path: dict[str, list[Projection]] = {}
    for projection in projections:
        by_path.setdefault(projection.path, []).append(projection)
    totals = {path: sum(ranks[p.label] for p in parts) for path, parts in by_path.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, parts in by_path.items():
        if totals[path]:
            shapes[_weight(path, "A")] = (totals[path], parts[0].in_features)
            shapes[_weight(path, "B")] = (parts[0].parts * parts[0].out_features, totals[path])
    expect(tensors, shapes, method)
    found: dict[str, Tensor] = {}
    for path, parts in by_path.items():
        found |= _parts_of(tensors, path, parts, ranks) if totals[path] else no_products(parts)
    return found


def _parts_of(
    tensors: Mapping[str, Tensor], path: str, parts: Sequence[Projection], ranks: Mapping[str, int]
) -> dict[str, Tensor]:
    a, b = tensors[_weight(path, "A")], tensors[_weight(path, "B")]
    products: list[Product] = []
    start = 0
    for projection in parts:
        end = start + ranks[projection.label]
        products.append((projection, a[start:end], projection.pick(b.t())[start:end].flatten(-2).t()))
        start = end
    if sum(int(own.count_nonzero()) for _, _, own in products) != int(b.count_nonzero()):
        raise MethodError(f"{_weight(path, 'B')} has numbers where its projections have no rows")
    return {f"{p.label}.{part}": tensor for p, *pair in products for part, tensor in zip("AB", pair, strict=True)}


def no_products(projections: Iterable[Projection]) -> dict[str, Tensor]:
    """``label.A`` [0, in] and ``label.B`` [out, 0]: nothing is added to these projections."""
    found: dict[str, Tensor] = {}
    for p in projections:
        found |= {f"{p.label}.A": torch.zeros(0, p.in_features), f"{p.label}.B": torch.zeros(p.out_features, 0)}
    return found


def _names(model: PreTrainedModel, paths: Sequence[str]) -> list[str]:
    """Names for ``target_modules`` that match exactly ``paths``: the shortest ends of paths that do."""
    for length in (1, 2):
        ends = sorted({".".join(path.split(".")[-length:]) for path in paths})
        if _matching(model, ends) == set(paths):
            return ends
    return sorted(paths)


def _matching(model: PreTrainedModel, targets: str | Iterable[str]) -> set[str]:
    """Paths of the modules that peft adapts: a string is a pattern of the whole path, in a list are ends of paths."""
    paths = [path for path, _ in model.named_modules()]
    if isinstance(targets, str):
        return {path for path in paths if re.fullmatch(targets, path)}
    ends = tuple(f".{end}" for end in targets)
    return {path for path in paths if f".{path}".endswith(ends)}


def adapted(model: PreTrainedModel, config: Mapping[str, object]) -> tuple[list[str], list[Projection]]:
    """The roles that ``target_modules`` names, and those of their projections that it matches.

    Raises:
        MethodError: it names modules that no method of ours adapts, or none that the model has.
    """
    targets = cast("str | Iterable[str]", config.get("target_modules"))
    known = {projection.path: projection for projection in anatomy_of(model).projections(model, [ALL_LINEAR])}
    paths = set(known) if targets == ALL_LINEAR else _matching(model, targets)
    if foreign := sorted(paths - set(known)):
        raise MethodError(f"the checkpoint's target_modules include {foreign[0]}, which ours do not adapt; {INSTEAD}")
    found = [projection for path, projection in known.items() if path in paths]
    if not found:
        raise MethodError(f"the checkpoint's target_modules ({short(targets)}) match nothing in the model")
    return list(dict.fromkeys(projection.role for projection in found)), found


def terms_at(config: Mapping[str, object], path: str) -> Terms:
    """The terms at one module: its patterns', where one matches the path, or else that of all.

    Raises:
        MethodError: a rank is no whole number of at least 1.
    """
    rank = _of_pattern(config, "rank_pattern", path, config.get("r", 8))
    alpha = _of_pattern(config, "alpha_pattern", path, config.get("lora_alpha", 8))
    check_value(PositiveInt, rank, "rank_pattern")
    return Terms(float(cast(float, alpha)), cast(int, rank), bool(config.get("use_rslora", False)))


def _of_pattern(config: Mapping[str, object], key: str, path: str, usual: object) -> object:
    patterns = cast("Mapping[str, object]", config.get(key) or {})
    return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", path)), usual)


def rescaled(b: Tensor, factor: float) -> Tensor:
    """B with a factor multiplied in; untouched where that is 1 but for rounding."""
    return b if math.isclose(factor, 1.0, rel_tol=1e-12) else (b.float() * factor).to(b.dtype)
