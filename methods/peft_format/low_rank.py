"""The tensors of low-rank methods in peft's format: a product B A for every module.

Where peft adapts a fused matrix (as GPT-2 keeps q, k and v in one) and the methods here adapt its parts, the
whole matrix gets one product: the A of the parts one below another, and the B of each part in the part's own rows, and
in columns of its own, of a B that is zero elsewhere.
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
from transformers.pytorch_utils import Conv1D

from methods.checkpoint import PeftCheckpoint, expect
from methods.errors import MethodError
from methods.lora import LowRankAttached, Product, scale_of
from methods.peft_format.config import config_head
from methods.peft_format.targets import target_names
from methods.projections import Projection
from methods.validators import PositiveInt, check_value


@dataclass(frozen=True)
class Terms:
    """The settings of a low-rank method that peft has too."""

    alpha: float
    rank: int
    rslora: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return scale_of(self.alpha, self.rank, self.rslora)

    def alpha_at(self, rank: int) -> float:
        """The alpha that gives the same scale at another rank."""
        ratio = rank / self.rank
        alpha = self.alpha * (math.sqrt(ratio) if self.rslora else ratio)
        return int(alpha) if float(alpha).is_integer() else alpha


def low_rank_checkpoint(attached: LowRankAttached, terms: Terms) -> PeftCheckpoint:
    """All products as a LoRA checkpoint. Modules without any rank are left out, for peft has no LoRA of rank 0."""
    model, products = attached.model, attached.products()
    if not any(len(a) for _, a, _ in products):  # peft needs a module: one whose product is zero
        projection, a, b = products[0]
        products = [(projection, a.new_zeros(1, a.shape[1]), b.new_zeros(len(b), 1)), *products[1:]]
    fused = {path: _fuse(parts) for path, parts in _by_path(products).items() if any(len(a) for _, a, _ in parts)}
    ranks = {path: len(a) for path, (a, _) in fused.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    other = {
        name: rank
        for rank in sorted(set(ranks.values()) - {usual})
        for name in target_names(model, [path for path in ranks if ranks[path] == rank])
    }
    config = {
        **config_head(model, "LORA"),
        "r": usual,
        "lora_alpha": terms.alpha_at(usual),
        "use_rslora": terms.rslora,
        "lora_dropout": terms.dropout,
        "target_modules": target_names(model, list(ranks)),
        "rank_pattern": other,
        "alpha_pattern": {name: terms.alpha_at(rank) for name, rank in other.items()},
        "fan_in_fan_out": any(isinstance(wrapper.base, Conv1D) for wrapper in attached.wrappers.values()),
        "bias": "none",
        "init_lora_weights": True,
        "use_dora": False,
    }
    pairs = {path: dict(zip("AB", pair, strict=True)) for path, pair in fused.items()}
    tensors = {_weight(path, part): tensor for path, pair in pairs.items() for part, tensor in pair.items()}
    return PeftCheckpoint(config, tensors, {projection.label: len(a) for projection, a, _ in products})


def _by_path(products: Iterable[Product]) -> dict[str, list[Product]]:
    found: dict[str, list[Product]] = {}
    for product in products:
        found.setdefault(product[0].path, []).append(product)
    return found


def _weight(path: str, part: str) -> str:
    return f"base_model.model.{path}.lora_{part}.weight"


def _fuse(parts: Sequence[Product]) -> tuple[Tensor, Tensor]:
    """A [R, in] and B [rows, R] of a whole module from those of its parts, R being the sum of their ranks."""
    first, a, b = parts[0]
    if first.whole:
        return a, b
    stacked = torch.cat([a for _, a, _ in parts])
    whole_b = b.new_zeros(first.rows, len(stacked))
    start = 0
    for projection, a, b in parts:
        projection.pick(whole_b.t())[start : start + len(a)] = projection.shape(b.t())
        start += len(a)
    return stacked, whole_b


def split(
    tensors: Mapping[str, Tensor], projections: Sequence[Projection], ranks: Mapping[str, int], method: str
) -> dict[str, Tensor]:
    """``label.A`` [r, in] and ``label.B`` [out, r] of every projection: the inverse of `low_rank_checkpoint`.

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
            shapes[_weight(path, "B")] = (parts[0].rows, totals[path])
    expect(tensors, shapes, method)
    found: dict[str, Tensor] = {}
    for path, parts in by_path.items():
        found |= _parts_of(tensors, path, parts, ranks) if totals[path] else empty_products(parts)
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


def empty_products(projections: Iterable[Projection]) -> dict[str, Tensor]:
    """``label.A`` [0, in] and ``label.B`` [out, 0]: nothing is added to these projections."""
    found: dict[str, Tensor] = {}
    for p in projections:
        found |= {f"{p.label}.A": torch.zeros(0, p.in_features), f"{p.label}.B": torch.zeros(p.out_features, 0)}
    return found


def terms_at(config: Mapping[str, object], path: str) -> Terms:
    """The terms at one module: those of the patterns that match the path, or else those of all modules.

    Raises:
        MethodError: a rank is no whole number of at least 1.
    """
    rank = _pattern_value(config, "rank_pattern", path, config.get("r", 8))
    alpha = _pattern_value(config, "alpha_pattern", path, config.get("lora_alpha", 8))
    check_value(PositiveInt, rank, "rank_pattern")
    return Terms(float(cast(float, alpha)), cast(int, rank), bool(config.get("use_rslora", False)))


def _pattern_value(config: Mapping[str, object], key: str, path: str, default: object) -> object:
    patterns = cast("Mapping[str, object]", config.get(key) or {})
    return next((value for name, value in patterns.items() if re.match(rf"(.*\.)?({name})$", path)), default)


def rescaled(b: Tensor, factor: float) -> Tensor:
    """B multiplied by a factor; untouched where the factor is 1 but for rounding."""
    return b if math.isclose(factor, 1.0, rel_tol=1e-12) else (b.float() * factor).to(b.dtype)
