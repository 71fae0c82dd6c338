"""Low-rank branches beside a frozen linear map: what LoRA, AdaLoRA and QLoRA have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.anatomy import Projection
from methods.base import Attached, Method, freeze
from methods.checkpoint import expect
from methods.errors import MethodError

Product = tuple[Projection, Tensor, Tensor]
"""A projection with its A [r, in] and B [out, r]."""
Fold = Callable[[nn.Module, Projection, Tensor], None]
"""Adds delta [out, in] to one projection's share of a base module's weight."""


def scale_of(alpha: float, rank: int, rslora: bool) -> float:
    """What B A is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA."""
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
        """x [..., in] to [..., out], not scaled: the caller fuses the scale into its addition."""
        if self.dropout and self.training:
            x = functional.dropout(x, self.dropout)
        return functional.linear(functional.linear(x, self.A), self.B)

    def delta(self) -> Tensor:
        """The change of the weight [out, in], in float32."""
        return self.scale * (self.B.float() @ self.A.float())


class LowRank(nn.Module):
    """A linear module with low-rank branches beside it, each adding to its own share of y = base(x)."""

    def __init__(self, base: nn.Module, projections: Sequence[Projection], branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.base = base
        self.projections = tuple(projections)
        self.branches = nn.ModuleList(branches)
        self.fused = projections[0].parts > 1
        # Autograd refuses in-place work on views of what a custom function returned, as quantised layers do.
        self.copies = type(base) not in (nn.Linear, Conv1D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        # Straight to the branches' forward: calling a module costs a tenth of what a branch costs at decode.
        if not self.fused:
            (branch,) = self.branches
            return torch.add(y, branch.forward(x), alpha=cast(float, branch.scale))
        if self.copies:
            y = y.clone()
        for projection, branch in zip(self.projections, self.branches, strict=True):
            # y is fresh from the base, and no linear map needs its own output for the backward pass.
            projection.pick(y).add_(projection.shape(branch.forward(x)), alpha=cast(float, branch.scale))
        return y


class LowRankAttached(Attached):
    """Low-rank branches inside a model, one `LowRank` in place of each target module."""

    def __init__(self, method: Method, model: PreTrainedModel, wrappers: Mapping[str, LowRank], fold: Fold) -> None:
        super().__init__(method, model)
        self.wrappers = dict(wrappers)
        self.fold = fold
        for path, wrapper in self.wrappers.items():
            self.replace_module(path, wrapper)

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
        parts = [(projection, cast(Branch, branch)) for projection, branch in self.branches()]
        return [(projection, branch.A.detach(), branch.B.detach()) for projection, branch in parts]

    def _merge(self) -> None:
        self.serve()
        with torch.no_grad():
            for wrapper in self.wrappers.values():
                for projection, branch in zip(wrapper.projections, wrapper.branches, strict=True):
                    self.fold(wrapper.base, projection, cast(Branch, branch).delta())
        self._detach()


def attach_branches(
    model: PreTrainedModel,
    projections: Sequence[Projection],
    branch: Callable[[Projection, nn.Module], nn.Module],
) -> dict[str, LowRank]:
    """Freezes the model and builds the wrappers, one a module, without putting them in."""
    freeze(model)
    by_path: dict[str, list[Projection]] = {}
    for projection in projections:
        by_path.setdefault(projection.path, []).append(projection)
    return {
        path: LowRank(base := model.get_submodule(path), parts, [branch(part, base) for part in parts])
        for path, parts in by_path.items()
    }


def restore_branches(
    method: Method,
    model: PreTrainedModel,
    projections: Sequence[Projection],
    shipped: Mapping[str, Tensor],
    scale: float,
    fold: Fold,
) -> LowRankAttached:
    """Wrappers in serving form from ``label.A`` [r, in] and ``label.B`` [out, r]; ranks may differ, rank 0 needs none.

    Raises:
        MethodError: the tensors do not fit.
    """
    expect_branches(method, projections, shipped)

    def branch(projection: Projection, base: nn.Module) -> Branch:
        like: dict[str, Any] = {"device": next(base.parameters()).device, "dtype": model.dtype}
        # copies, because tensors of a file are not aligned in memory as matrix products like them
        a, b = (shipped[f"{projection.label}.{part}"].to(**like, copy=True) for part in "AB")
        return Branch(a, b, scale)

    attached = LowRankAttached(method, model, attach_branches(model, projections, branch), fold)
    attached.serve()
    return attached


def expect_branches(method: Method, projections: Sequence[Projection], shipped: Mapping[str, Tensor]) -> None:
    """Refuses tensors that are not ``label.A`` [r, in] and ``label.B`` [out, r] of each projection.

    Raises:
        MethodError: naming what is missing, surplus or of another shape.
    """
    # The rank is the checkpoint's (AdaLoRA's differ from layer to layer), the other sizes are the model's.
    shapes: dict[str, tuple[int, ...]] = {}
    for projection in projections:
        a = shipped.get(f"{projection.label}.A")
        rank = a.shape[0] if a is not None and a.ndim == 2 else 0
        shapes[f"{projection.label}.A"] = (rank, projection.in_features)
        shapes[f"{projection.label}.B"] = (projection.out_features, rank)
    expect(shipped, shapes, method.name)


def check_rank(rank: int, projections: Sequence[Projection]) -> None:
    """Refuses a rank that is larger than a layer.

    Raises:
        MethodError: naming the layer and the largest rank it takes.
    """
    narrowest = min(projections, key=lambda projection: min(projection.in_features, projection.out_features))
    most = min(narrowest.in_features, narrowest.out_features)
    if rank > most:
        shape = f"{narrowest.in_features} x {narrowest.out_features}"
        raise MethodError(f"rank {rank} is larger than layer {narrowest.path} ({shape}); use at most {most}")


def fold_into_weight(base: nn.Module, projection: Projection, delta: Tensor) -> None:
    """W + delta on one projection's rows, added in float32 and rounded once to the weight's dtype.

    The sum becomes a new parameter of ``base``: another model may share the old one's storage.
    """
    weight = cast(nn.Parameter, base.weight).detach().clone()
    rows = weight.t() if isinstance(base, Conv1D) else weight  # Conv1D stores [in, out]
    view = rows.unflatten(0, (projection.groups, projection.parts, -1))[:, projection.part]
    view.copy_(view.float() + delta.unflatten(0, (projection.groups, -1)))
    base.weight = nn.Parameter(weight, requires_grad=False)
