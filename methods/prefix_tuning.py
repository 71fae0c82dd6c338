"""Prefix tuning (Li & Liang 2021, https://arxiv.org/abs/2101.00190, section 4): trained keys and values in every layer.

A tensor [L, 2, k, d_kv] is trained, and stands in front of the keys and values of each layer. The prefix has no queries
and does not go through the feed-forward: the query length stays T, the cache is k + T long. With ``reparametrize`` an
MLP makes the tensor from a smaller one during training (section 4.3), and is dropped when training ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.architectures import Architecture, architecture_of, model_device
from methods.base import Attached, Count, Method, freeze
from methods.checkpoint import expect
from methods.compat import cache_argument, recomputes_activations
from methods.errors import Unsupported
from methods.validators import NonNegativeFloat, PositiveInt
from methods.virtual import FillCache, VirtualTokens


@dataclass(frozen=True, kw_only=True)
class PrefixTuning(Method):
    """``num_virtual_tokens`` keys and values per layer."""

    name: ClassVar[str] = "prefix_tuning"
    identity: ClassVar[bool] = False  # even a zero prefix takes softmax weight

    num_virtual_tokens: PositiveInt = 20
    reparametrize: bool = False
    encoder_hidden_size: PositiveInt | None = None
    """Hidden width of the MLP of ``reparametrize``. None stands for d_kv."""
    init_std: NonNegativeFloat = 0.02

    @property
    def size(self) -> int:
        return self.num_virtual_tokens

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def shape(self, model: PreTrainedModel) -> tuple[int, int, int, int]:
        """(L, 2, k, d_kv)."""
        architecture = architecture_of(model)
        return len(architecture.layers), 2, self.num_virtual_tokens, architecture.kv_size

    def check(self, model: PreTrainedModel) -> None:
        architecture_of(model)  # what layers keep in their caches is known of these families
        FillCache.check(model)
        if recomputes_activations(model):
            raise Unsupported("prefix tuning can't train with gradient checkpointing, which drops its cache")

    def count(self, model: PreTrainedModel) -> Count:
        layers, _, k, d = self.shape(model)
        flat = 2 * layers * k * d
        if not self.reparametrize:
            return Count(trained=flat, shipped=flat)
        h = self.encoder_hidden_size or d
        return Count(trained=k * d + d * h + h + h * 2 * layers * d + 2 * layers * d, shipped=flat)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        like: dict[str, Any] = {"device": model_device(model), "dtype": model.dtype}
        if self.reparametrize:
            source: nn.Module = ReparametrizedPrefix(self, self.shape(model), like)
        else:
            source = FlatPrefix(torch.empty(self.shape(model), **like).normal_(std=self.init_std))
        return PrefixAttached(self, model, source)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        expect(shipped, {"prefix": self.shape(model)}, self.name)
        freeze(model)
        prefix = shipped["prefix"].to(device=model_device(model), dtype=model.dtype, copy=True)
        attached = PrefixAttached(self, model, FlatPrefix(prefix))
        attached.prepare_for_inference()
        return attached


class FlatPrefix(nn.Module):
    """The prefix itself, [L, 2, k, d_kv]."""

    def __init__(self, prefix: Tensor) -> None:
        super().__init__()
        self.prefix = nn.Parameter(prefix)

    def forward(self) -> Tensor:
        return self.prefix


class ReparametrizedPrefix(nn.Module):
    """An MLP that maps k embeddings [k, d_kv] to [L, 2, k, d_kv]."""

    def __init__(self, method: PrefixTuning, shape: tuple[int, int, int, int], like: dict[str, Any]) -> None:
        super().__init__()
        layers, _, k, d = shape
        h = method.encoder_hidden_size or d
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(k, d, **like))
        self.mlp = nn.Sequential(nn.Linear(d, h, **like), nn.Tanh(), nn.Linear(h, 2 * layers * d, **like))

    def forward(self) -> Tensor:
        layers, two, k, d = self.shape
        flat: Tensor = self.mlp(self.embedding)  # [k, L * 2 * d_kv]
        return flat.view(k, layers, two, d).permute(1, 2, 0, 3)


class PrefixAttached(Attached):
    """A prefix inside a model, put into the cache of each prefill."""

    method: PrefixTuning

    def __init__(self, method: PrefixTuning, model: PreTrainedModel, source: nn.Module) -> None:
        super().__init__(method, model)
        self.source = source
        architecture: Architecture = architecture_of(model)
        prefill = FillCache(model, self.keys_and_values, architecture.kv_heads, cache_argument(model))
        self.hooks += VirtualTokens(model, method.num_virtual_tokens, prefill).handles

    def keys_and_values(self) -> Tensor:
        """The prefix [L, 2, k, d_kv] of this forward pass."""
        prefix: Tensor = self.source()
        return prefix

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.source.named_parameters())

    def shipped(self) -> dict[str, Tensor]:
        return {"prefix": self.source().detach()}

    def prepare_for_inference(self) -> None:
        self.source = FlatPrefix(self.source().detach().contiguous())
        super().prepare_for_inference()
