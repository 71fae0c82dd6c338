"""Bottleneck adapters (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751, section 2.1).

Between the output projection of a sublayer and the residual sum, x becomes x + up(act(down(x))). ``up`` starts at zero.
``houlsby`` places an adapter after attention and one after the feed-forward, ``pfeiffer`` only the second (Pfeiffer et
al. 2021, https://arxiv.org/abs/2005.00247). ``skip_layers`` leaves the first layers without adapters (AdapterDrop,
Rücklé et al. 2021, https://arxiv.org/abs/2010.11918).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from methods.architectures import architecture_of
from methods.base import Attached, Count, Method, freeze
from methods.errors import MethodError
from methods.validators import NonNegativeInt, PositiveInt


class Placement(StrEnum):
    """The sublayers that get an adapter."""

    houlsby = "houlsby"
    pfeiffer = "pfeiffer"


SUBLAYERS = {
    Placement.houlsby: {"attention": "o", "feed_forward": "down"},
    Placement.pfeiffer: {"feed_forward": "down"},
}


@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """Adapters of width ``bottleneck``."""

    name: ClassVar[str] = "adapter"
    identity: ClassVar[bool] = True

    bottleneck: PositiveInt = 16
    placement: Placement = Placement.houlsby
    skip_layers: NonNegativeInt = 0
    """Number of first layers without adapters (AdapterDrop)."""
    activation: str = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation not in ACT2FN:
            raise MethodError(f"activation '{self.activation}' is unknown; use one of {', '.join(sorted(ACT2FN))}")
        if any(ACT2FN[self.activation].parameters()):
            raise MethodError(
                f"activation '{self.activation}' has weights of its own, which no checkpoint would hold; use another"
            )

    @property
    def size(self) -> int:
        return self.bottleneck

    def places(self, model: PreTrainedModel) -> dict[str, str]:
        """Stable name of each adapter (``3.attention``) and the path of the output projection that it follows."""
        architecture = architecture_of(model)
        return {
            f"{layer}.{sublayer}": path
            for sublayer, role in SUBLAYERS[self.placement].items()
            for layer, path in enumerate(architecture.outputs(role))
            if layer >= self.skip_layers
        }

    def check(self, model: PreTrainedModel) -> None:
        architecture = architecture_of(model)
        if self.bottleneck > architecture.hidden_size:
            raise MethodError(
                f"bottleneck {self.bottleneck} is larger than the hidden size; use at most {architecture.hidden_size}"
            )
        if self.skip_layers >= len(architecture.layers):
            raise MethodError(
                f"skip_layers {self.skip_layers} leaves none of {len(architecture.layers)} layers with an adapter; "
                f"use at most {len(architecture.layers) - 1}"
            )

    def count(self, model: PreTrainedModel) -> Count:
        d, b = architecture_of(model).hidden_size, self.bottleneck
        count = len(self.places(model)) * (2 * d * b + d + b)
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        return AdapterAttached(self, model)


class Bottleneck(nn.Module):
    """An output projection followed by an adapter: y + up(act(down(y))) with y = base(x)."""

    def __init__(self, base: nn.Module, hidden_size: int, bottleneck: int, activation: str, dtype: torch.dtype) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": next(base.parameters()).device, "dtype": dtype}
        self.base = base
        self.down = nn.Linear(hidden_size, bottleneck, **like)
        self.up = nn.Linear(bottleneck, hidden_size, **like)
        self.activation = ACT2FN[activation]
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d_in] to [..., d]."""
        y: Tensor = self.base(x)
        # forward is called directly: at decode, calling these modules costs a third of what they compute
        return y + self.up.forward(self.activation.forward(self.down.forward(y)))


class AdapterAttached(Attached):
    """Adapters inside a model."""

    def __init__(self, method: Adapter, model: PreTrainedModel) -> None:
        super().__init__(method, model)
        hidden_size = architecture_of(model).hidden_size
        self.bottlenecks: dict[str, Bottleneck] = {}
        for name, path in method.places(model).items():
            base = model.get_submodule(path)
            bottleneck = Bottleneck(base, hidden_size, method.bottleneck, method.activation, model.dtype)
            self.replace_module(path, bottleneck)
            self.bottlenecks[name] = bottleneck

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{part}.{kind}": parameter
            for name, bottleneck in self.bottlenecks.items()
            for part, module in (("down", bottleneck.down), ("up", bottleneck.up))
            for kind, parameter in module.named_parameters()
        }
