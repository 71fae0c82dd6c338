"""LoRA: low-rank adaptation of large language models (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

W x becomes W x + (alpha / r) B A x with A [r, in] drawn at random and B [out, r] zero (section 4.1). With ``rslora``
the factor is alpha / sqrt(r) (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).

`LowRank` stands in the place of a linear module and adds a `Branch` to it. AdaLoRA and QLoRA use both, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.architectures import architecture_of
from methods.base import Attached, Count, Method, freeze
from methods.checkpoint import expect
from methods.errors import Unsupported
from methods.packed import can_train
from methods.projections import Projection, check_rank
from methods.validators import Fraction, Names, PositiveFloat, PositiveInt

Product = tuple[Projection, Tensor, Tensor]
"""A projection with its A [r, in] and B [out, r]."""
NewBranch = Callable[[Projection, nn.Module], nn.Module]
"""Makes the branch of a projection, given the base module."""
Fold = Callable[[nn.Module, Projection, Tensor], None]
"""Adds delta [out, in] to one projection's share of the weight of a base module."""


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
        return architecture_of(model).projections(model, self.targets)

    def check(self, model: PreTrainedModel) -> None:
        check_rank(self.rank, self.projections(model))

    def count(self, model: PreTrainedModel) -> Count:
        count = sum(self.rank * (p.in_features + p.out_features) for p in self.projections(model))
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        return attach_lora(self, self, model, fold_into_weight)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        return restore_branches(self, model, self.projections(model), shipped, self.scale, fold_into_weight)


def scale_of(alpha: float, rank: int, rslora: bool = False) -> float:
    """What B A is multiplied by: alpha / r, or alpha / sqrt(r) with rsLoRA."""
    return alpha / (math.sqrt(rank) if rslora else rank)


class Branch(nn.Module):
    """scale * (x A^T) B^T, with A [r, in] and B [out, r]."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.A = nn.Parameter(a)
        self.B = nn.Parameter(b)
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], not scaled: the caller scales and adds in one operation."""
        if self.dropout and self.training:
            x = functional.dropout(x, self.dropout)
        return functional.linear(functional.linear(x, self.A), self.B)

    def delta(self) -> Tensor:
        """The change of the weight [out, in], in float32."""
        return self.scale * (self.B.float() @ self.A.float())


class LowRank(nn.Module):
    """A linear module with low-rank branches beside it, each of which adds to its own share of y = base(x)."""

    def __init__(self, base: nn.Module, projections: Sequence[Projection], branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.base = base
        self.projections = tuple(projections)
        self.branches = nn.ModuleList(branches)
        self.fused = not projections[0].whole
        # Autograd refuses to change in place a view of what a custom function returned, as quantized layers do.
        self.copies = type(base) not in (nn.Linear, Conv1D)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., rows of the module]."""
        y: Tensor = self.base(x)
        # The branches' forward is called directly: at decode, calling a module costs a tenth of what a branch costs.
        if not self.fused:
            (branch,) = self.branches
            return torch.add(y, branch.forward(x), alpha=cast(float, branch.scale))
        if self.copies:
            y = y.clone()
        for projection, branch in zip(self.projections, self.branches, strict=True):
            # y is a new tensor, which no linear map needs for its backward pass
            projection.pick(y).add_(projection.shape(branch.forward(x)), alpha=cast(float, branch.scale))
        return y


class LowRankAttached(Attached):
    """Low-rank branches inside a model, one `LowRank` in the place of each target module."""

    def __init__(
        self, method: Method, model: PreTrainedModel, projections: Sequence[Projection], branch: NewBranch, fold: Fold
    ) -> None:
        super().__init__(method, model)
        freeze(model)
        self.fold = fold
        self.wrappers: dict[str, LowRank] = {}
        by_path: dict[str, list[Projection]] = {}
        for projection in projections:
            by_path.setdefault(projection.path, []).append(projection)
        for path, parts in by_path.items():
            base = model.get_submodule(path)
            self.wrappers[path] = LowRank(base, parts, [branch(part, base) for part in parts])
            self.replace_module(path, self.wrappers[path])

    def branches(self) -> list[tuple[Projection, nn.Module]]:
        """Every projection with its branch."""
        return [
            (projection, branch)
            for wrapper in self.wrappers.values()
            for projection, branch in zip(wrapper.projections, wrapper.branches, strict=True)
        ]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{projection.label}.{name}": parameter
            for projection, branch in self.branches()
            for name, parameter in branch.named_parameters()
        }

    def products(self) -> list[Product]:
        """Every projection with the A and B that it serves with."""
        branches = cast("list[tuple[Projection, Branch]]", self.branches())
        return [(projection, branch.A.detach(), branch.B.detach()) for projection, branch in branches]

    def _merge(self) -> None:
        self.prepare_for_inference()
        with torch.no_grad():
            for wrapper in self.wrappers.values():
                for projection, branch in zip(wrapper.projections, wrapper.branches, strict=True):
                    self.fold(wrapper.base, projection, cast(Branch, branch).delta())
        self._detach()


def attach_lora(method: Method, lora: Lora, model: PreTrainedModel, fold: Fold) -> LowRankAttached:
    """Attaches new branches to the targets of ``lora``, on behalf of ``method``.

    A is uniform as in the authors' code (Kaiming, a = sqrt 5) and B is zero, so nothing changes at first.
    """

    def branch(projection: Projection, base: nn.Module) -> Branch:
        like: dict[str, Any] = {"device": next(base.parameters()).device, "dtype": model.dtype}
        a = torch.empty(lora.rank, projection.in_features, **like)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        return Branch(a, torch.zeros(projection.out_features, lora.rank, **like), lora.scale, lora.dropout)

    return LowRankAttached(method, model, lora.projections(model), branch, fold)


def restore_branches(
    method: Method,
    model: PreTrainedModel,
    projections: Sequence[Projection],
    shipped: Mapping[str, Tensor],
    scale: float,
    fold: Fold,
) -> LowRankAttached:
    """Attaches branches made of ``label.A`` [r, in] and ``label.B`` [out, r]; ranks may differ and may be 0.

    Raises:
        MethodError: the tensors do not fit.
    """
    expect_branches(method, projections, shipped)

    def branch(projection: Projection, base: nn.Module) -> Branch:
        like: dict[str, Any] = {"device": next(base.parameters()).device, "dtype": model.dtype}
        # copies, because tensors of a file are not aligned in memory as matrix products like them
        a, b = (shipped[f"{projection.label}.{part}"].to(**like, copy=True) for part in "AB")
        return Branch(a, b, scale)

    attached = LowRankAttached(method, model, projections, branch, fold)
    attached.prepare_for_inference()
    return attached


def expect_branches(method: Method, projections: Sequence[Projection], shipped: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not ``label.A`` [r, in] and ``label.B`` [out, r] of each projection.

    Raises:
        MethodError: naming what is missing, surplus or of another shape.
    """
    # The rank is the checkpoint's (AdaLoRA's differ from layer to layer), the other sizes are the model's.
    shapes: dict[str, tuple[int, ...]] = {}
    for p in projections:
        a = shipped.get(f"{p.label}.A")
        rank = a.shape[0] if a is not None and a.ndim == 2 else 0
        shapes |= {f"{p.label}.A": (rank, p.in_features), f"{p.label}.B": (p.out_features, rank)}
    expect(shipped, shapes, method.name)


def fold_into_weight(base: nn.Module, projection: Projection, delta: Tensor) -> None:
    """W + delta on the rows of one projection, added in float32 and rounded once to the weight's dtype.

    The sum becomes a new parameter of ``base``: another model may share the storage of the old one.

    Raises:
        Unsupported: the weight is quantized.
    """
    if not can_train(cast(nn.Parameter, base.weight)):
        raise Unsupported("the weights are quantized, and a merge would round them again; qlora does that")
    weight = cast(nn.Parameter, base.weight).detach().clone()
    rows = weight.t() if isinstance(base, Conv1D) else weight  # Conv1D stores [in, out]
    view = projection.pick(rows.t())
    view.copy_(view.float() + projection.shape(delta.t()))
    base.weight = nn.Parameter(weight, requires_grad=False)
