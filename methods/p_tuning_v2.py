"""P-tuning v2 as deep prompts (Liu et al. 2022, https://arxiv.org/abs/2110.07602, section 3.2 and figure 2).

A tensor [L, k, d] is trained. The k vectors of layer l stand in front of the hidden states of the real tokens, in place
of what layer l-1 computed from its own k vectors. At prefill every layer runs on k + T positions and caches k + T. (The
authors' code trains a prefix of keys and values instead, which is `methods.prefix_tuning`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.architectures import architecture_of, embedding_shape, model_device
from methods.base import Attached, Count, Method, freeze
from methods.checkpoint import expect
from methods.validators import NonNegativeFloat, PositiveInt
from methods.virtual import PrependEmbeddings, VirtualTokens


@dataclass(frozen=True, kw_only=True)
class PTuningV2(Method):
    """``num_virtual_tokens`` vectors of the hidden size for every layer."""

    name: ClassVar[str] = "p_tuning_v2"
    identity: ClassVar[bool] = False

    num_virtual_tokens: PositiveInt = 20
    init_std: NonNegativeFloat = 0.02
    """Standard deviation of the normal distribution that the vectors are drawn from at the start."""

    @property
    def size(self) -> int:
        return self.num_virtual_tokens

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def shape(self, model: PreTrainedModel) -> tuple[int, int, int]:
        """(L, k, d)."""
        architecture = architecture_of(model)
        return len(architecture.layers), self.num_virtual_tokens, architecture.hidden_size

    def check(self, model: PreTrainedModel) -> None:
        architecture_of(model)  # which modules are the layers, one after another, is known of these families
        PrependEmbeddings.check(model)

    def count(self, model: PreTrainedModel) -> Count:
        layers, k, d = self.shape(model)
        return Count(trained=layers * k * d, shipped=layers * k * d)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        start = torch.empty(self.shape(model), device=model_device(model), dtype=model.dtype).normal_(std=self.init_std)
        return DeepPromptAttached(self, model, nn.Parameter(start))

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        expect(shipped, {"prompts": self.shape(model)}, self.name)
        freeze(model)
        prompts = shipped["prompts"].to(device=model_device(model), dtype=model.dtype, copy=True)
        attached = DeepPromptAttached(self, model, nn.Parameter(prompts))
        attached.prepare_for_inference()
        return attached


class DeepPromptAttached(Attached):
    """Deep prompts in a model: a hook on the model makes room for k positions, one per layer puts its vectors there."""

    method: PTuningV2

    def __init__(self, method: PTuningV2, model: PreTrainedModel, prompts: nn.Parameter) -> None:
        super().__init__(method, model)
        self.prompts = prompts
        self.tokens = VirtualTokens(model, method.num_virtual_tokens, PrependEmbeddings(model, self.room))
        self.hooks += self.tokens.handles
        for index, path in enumerate(architecture_of(model).layers):
            hook = partial(self._replace, index)
            self.hooks.append(model.get_submodule(path).register_forward_pre_hook(hook))

    def room(self) -> Tensor:
        """Zeros [k, d] in front of the input. Layer 0 replaces them, as every layer does, so they reach no result."""
        return self.prompts.new_zeros(self.method.virtual_tokens, embedding_shape(self.model)[1])

    def _replace(self, layer: int, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.tokens.prefilling:
            return None
        hidden: Tensor = args[0]  # [B, k + T, d]
        own = self.prompts[layer].expand(hidden.shape[0], -1, -1)
        return (torch.cat([own, hidden[:, own.shape[1] :]], dim=1), *args[1:])

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {"prompts": self.prompts}
