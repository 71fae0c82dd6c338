"""Full fine-tuning: every weight trains, and a checkpoint holds the whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.base import Attached, Count, Method
from methods.checkpoint import expect
from methods.errors import MethodError, Unsupported
from methods.packed import can_train


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Trains every parameter of the model."""

    name: ClassVar[str] = "full"
    identity: ClassVar[bool] = True

    def check(self, model: PreTrainedModel) -> None:
        super().check(model)
        if getattr(model, "is_quantized", False) or not all(map(can_train, model.parameters())):
            raise Unsupported("the weights are quantized, and every one of them would train")

    def count(self, model: PreTrainedModel) -> Count:
        count = sum(parameter.numel() for parameter in model.parameters())
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return FullAttached(self, model)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        own = dict(model.named_parameters())
        expect(shipped, {name: tuple(parameter.shape) for name, parameter in own.items()}, self.name)
        for name, parameter in own.items():
            path, _, leaf = name.rpartition(".")
            # a new parameter, because another model may share the storage of the old one, and a copy, because tensors
            # of a file are not aligned in memory as matrix products like them
            tensor = shipped[name].to(device=parameter.device, dtype=parameter.dtype, copy=True)
            setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=False))
        model.tie_weights()
        return FullAttached(self, model)


class FullAttached(Attached):
    """The model itself."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        # this yields tied weights once, as a file should hold them
        return dict(self.model.named_parameters())

    def _detach(self) -> None:
        raise MethodError("full fine-tuning can't be detached, because it changed the base weights; load them again")
