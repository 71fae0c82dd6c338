"""LoRA: low-rank adaptation of large language models (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

W x becomes W x + (alpha / r) B A x with A [r, in] drawn at random and B [out, r] zero (section 4.1). With ``rslora``
the factor is alpha / sqrt(r) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.anatomy import Projection, anatomy_of
from methods.base import Attached, Count, Method
from methods.low_rank import (
    Branch,
    Fold,
    LowRankAttached,
    attach_branches,
    check_rank,
    fold_into_weight,
    restore_branches,
    scale_of,
)
from methods.validators import Fraction, Names, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """LoRA on the projections that ``targets`` name."""

    name: ClassVar[str] = "lora"
    identity: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Names = ("q", "v")
    """Roles (q, k, v, o, gate, up, down, qkv), names of modules, or all-linear."""
    rslora: bool = False
    dropout: Fraction = 0.0

    @property
    def size(self) -> int:
        return self.rank

    @property
    def scale(self) -> float:
        return scale_of(self.alpha, self.rank, self.rslora)

    def projections(self, model: PreTrainedModel) -> list[Projection]:
        return anatomy_of(model).projections(model, self.targets)

    def check(self, model: PreTrainedModel) -> None:
        check_rank(self.rank, self.projections(model))

    def count(self, model: PreTrainedModel) -> Count:
        count = sum(self.rank * (p.in_features + p.out_features) for p in self.projections(model))
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        return attach_lora(self, self, model, fold_into_weight)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        return restore_branches(self, model, self.projections(model), shipped, self.scale, fold_into_weight)


def attach_lora(method: Method, lora: Lora, model: PreTrainedModel, fold: Fold) -> LowRankAttached:
    """New branches on the targets of ``lora``, on behalf of ``method``.

    A is uniform as in the authors' code (Kaiming, a = sqrt 5), B is zero, so that nothing changes at first.
    """
    lora.check(model)

    def branch(projection: Projection, base: nn.Module) -> Branch:
        like: dict[str, Any] = {"device": next(base.parameters()).device, "dtype": model.dtype}
        a = torch.empty(lora.rank, projection.in_features, **like)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        return Branch(a, torch.zeros(projection.out_features, lora.rank, **like), lora.scale, lora.dropout)

    return LowRankAttached(method, model, attach_branches(model, lora.projections(model), branch), fold)
