"""A method of another package: the output of each feed-forward is multiplied by a trained vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.architectures import architecture_of
from methods.base import Attached, Count, Method, freeze
from methods.validators import NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class OutputScale(Method):
    """A vector of the hidden size in every layer but the first ``skip_layers``."""

    name: ClassVar[str] = "output_scale"
    identity: ClassVar[bool] = True  # the vectors start at one

    skip_layers: NonNegativeInt = 0

    def places(self, model: PreTrainedModel) -> list[str]:
        """Paths of the output projections of the feed-forwards."""
        return list(architecture_of(model).outputs("down"))[self.skip_layers :]

    def count(self, model: PreTrainedModel) -> Count:
        count = len(self.places(model)) * architecture_of(model).hidden_size
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        return OutputScaleAttached(self, model)


class Scaled(nn.Module):
    """scale * base(x)."""

    def __init__(self, base: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(scale.clone())

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d_in] to [..., d]."""
        return self.scale * self.base(x)


class OutputScaleAttached(Attached):
    """Scaled projections inside a model."""

    def __init__(self, method: OutputScale, model: PreTrainedModel) -> None:
        super().__init__(method, model)
        one = torch.ones(architecture_of(model).hidden_size, device=model.device, dtype=model.dtype)
        self.scaled = {path: Scaled(model.get_submodule(path), one) for path in method.places(model)}
        for path, scaled in self.scaled.items():
            self.replace_module(path, scaled)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {path: scaled.scale for path, scaled in self.scaled.items()}
