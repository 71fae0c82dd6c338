"""A method of another package: the output of each feed-forward is multiplied by a trained vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.anatomy import anatomy_of
from methods.base import Attached, Count, Method, freeze
from methods.checkpoint import expect
from methods.validators import NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class OutputScale(Method):
    """A vector of the hidden size in every layer but the first ``skip_layers``."""

    name: ClassVar[str] = "output_scale"
    identity: ClassVar[bool] = True  # the vectors start at one

    skip_layers: NonNegativeInt = 0

    @property
    def size(self) -> None:
        return None

    def places(self, model: PreTrainedModel) -> list[str]:
        """Paths of the output projections of the feed-forwards."""
        return list(anatomy_of(model).outputs("down"))[self.skip_layers :]

    def count(self, model: PreTrainedModel) -> Count:
        count = len(self.places(model)) * anatomy_of(model).hidden_size
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        one = torch.ones(anatomy_of(model).hidden_size, device=model.device, dtype=model.dtype)
        return OutputScaleAttached(
            self, model, {path: Scaled(model.get_submodule(path), one) for path in self.places(model)}
        )

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        expect(shipped, {path: (anatomy_of(model).hidden_size,) for path in self.places(model)}, self.name)
        attached = self._attach(model)
        for name, parameter in attached.trained().items():
            parameter.data.copy_(shipped[name])
        attached.serve()
        return attached


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

    def __init__(self, method: OutputScale, model: PreTrainedModel, places: dict[str, Scaled]) -> None:
        self.method = method
        self.model = model
        self.places = places
        for path, scaled in places.items():
            model.set_submodule(path, scaled)

    def trained(self) -> dict[str, nn.Parameter]:
        return {path: scaled.scale for path, scaled in self.places.items() if scaled.scale.requires_grad}

    def shipped(self) -> dict[str, Tensor]:
        return {path: scaled.scale.detach() for path, scaled in self.places.items()}

    def serve(self) -> None:
        for scaled in self.places.values():
            scaled.scale.requires_grad_(False)

    def _detach(self) -> None:
        for path, scaled in self.places.items():
            self.model.set_submodule(path, scaled.base)
