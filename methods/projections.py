"""One linear map of a model: a whole module, or a part of a fused one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from methods.errors import MethodError


@dataclass(frozen=True)
class Projection:
    """One linear map of one layer: a whole module, or one part of a fused one.

    The rows of a fused weight [rows, in] are ``groups`` blocks of the same size. A part has the rows of every block
    from ``start`` on, ``out_features`` in all. Parts may differ in size.
    """

    layer: int
    role: str
    path: str
    """Module path from the model."""
    in_features: int
    out_features: int
    """Rows of this part alone."""
    rows: int
    """Rows of the whole module."""
    groups: int = 1
    start: int = 0
    """The first row of this part in each block."""

    @property
    def whole(self) -> bool:
        """Whether this is all of its module."""
        return self.out_features == self.rows

    def overlaps(self, other: Projection) -> bool:
        """Whether both have a row of the same module."""
        # parts of one module are rows of the same blocks, and a whole module is one block
        apart = self.start >= other.start + other.size or other.start >= self.start + self.size
        return self.path == other.path and not apart

    @property
    def size(self) -> int:
        """Rows of this part in each block."""
        return self.out_features // self.groups

    def pick(self, y: Tensor) -> Tensor:
        """A view [..., groups, size] of this projection's share of ``y`` [..., rows]."""
        if self.groups == 1:  # the same with fewer views, which cost time at decode
            return y.narrow(-1, self.start, self.out_features).unsqueeze(-2)
        blocks: Tensor = y.unflatten(-1, (self.groups, -1))
        return blocks.narrow(-1, self.start, self.size)

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
    if not isinstance(module, nn.Linear | Conv1D):
        raise MethodError(f"expected a linear module, not a {type(module).__name__}")
    return features(module)


def features(module: Any) -> tuple[int, int]:
    """(out, in) of a linear module of any library.

    Raises:
        MethodError: the module does not say how large it is.
    """
    names = ("nf", "nx") if isinstance(module, Conv1D) else ("out_features", "in_features")
    if not all(hasattr(module, name) for name in names):
        raise MethodError(f"expected a linear module, not a {type(module).__name__}")
    rows, columns = (int(getattr(module, name)) for name in names)
    return rows, columns


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
