"""One linear map of a model: a whole module, or a part of a fused one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from methods.errors import MethodError


@dataclass(frozen=True)
class Projection:
    """One linear map of one layer: a whole module, or one part of a fused one.

    Rows of the fused weight [out, in] are read as [groups, parts, size, in]; ``part`` picks [groups, size, in].
    """

    layer: int
    role: str
    path: str
    """Module path from the model."""
    in_features: int
    out_features: int
    """Rows of this part alone."""
    part: int = 0
    parts: int = 1
    groups: int = 1

    def pick(self, y: Tensor) -> Tensor:
        """A view [..., groups, size] of this projection's share of ``y`` [..., all parts]."""
        if self.groups == 1:  # the same with fewer views, which cost time at decode
            return y.narrow(-1, self.part * self.out_features, self.out_features).unsqueeze(-2)
        parts: Tensor = y.unflatten(-1, (self.groups, self.parts, -1))
        return parts[..., self.part, :]

    def shape(self, delta: Tensor) -> Tensor:
        """``delta`` [..., out_features] in the shape of what `pick` returns."""
        shaped: Tensor = delta.unflatten(-1, (self.groups, -1))
        return shaped

    @property
    def label(self) -> str:
        """``3.v``: layer and role, the stable name of this projection in checkpoints."""
        return f"{self.layer}.{self.role}"


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear module, whether it stores its weight as such or transposed, quantized or not.

    Raises:
        MethodError: the module is not linear.
    """
    if isinstance(module, Conv1D):
        return int(module.nf), int(module.nx)
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    raise MethodError(f"expected a linear module, not a {type(module).__name__}")


def check_rank(rank: int, projections: Sequence[Projection]) -> None:
    """Refuses a rank that is larger than a layer.

    Raises:
        MethodError: the message names the layer and the largest rank that it allows.
    """
    narrowest = min(projections, key=lambda projection: min(projection.in_features, projection.out_features))
    most = min(narrowest.in_features, narrowest.out_features)
    if rank > most:
        shape = f"{narrowest.in_features} x {narrowest.out_features}"
        raise MethodError(f"rank {rank} is larger than layer {narrowest.path} ({shape}); use at most {most}")
