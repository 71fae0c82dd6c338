"""Prompt tuning (Lester et al. 2021, https://arxiv.org/abs/2104.08691): k trained vectors before the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.architectures import embedding_shape, model_device
from methods.base import Attached, Count, Method, freeze
from methods.checkpoint import expect
from methods.validators import PositiveInt
from methods.virtual import PrependEmbeddings, VirtualTokens


class Init(StrEnum):
    """Where the vectors start (section 3.2 of the paper)."""

    vocabulary = "vocabulary"
    """Embeddings of tokens drawn at random."""
    random = "random"
    """Uniform in [-0.5, 0.5]."""


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Method):
    """``num_virtual_tokens`` independent vectors of the hidden size."""

    name: ClassVar[str] = "prompt_tuning"
    identity: ClassVar[bool] = False

    num_virtual_tokens: PositiveInt = 20
    init: Init = Init.vocabulary

    @property
    def size(self) -> int:
        return self.num_virtual_tokens

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def check(self, model: PreTrainedModel) -> None:
        super().check(model)
        PrependEmbeddings.check(model)

    def count(self, model: PreTrainedModel) -> Count:
        count = self.num_virtual_tokens * embedding_shape(model)[1]
        return Count(trained=count, shipped=count)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        return PromptAttached(self, model, nn.Parameter(self._start(model)))

    def _start(self, model: PreTrainedModel) -> Tensor:
        embeddings = model.get_input_embeddings()
        device = model_device(model)
        if self.init is Init.random:
            return torch.empty(
                self.num_virtual_tokens, embedding_shape(model)[1], device=device, dtype=model.dtype
            ).uniform_(-0.5, 0.5)
        ids = torch.randint(embedding_shape(model)[0], (self.num_virtual_tokens,), device=device)
        with torch.no_grad():
            start: Tensor = embeddings(ids).clone()
        return start

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        return restore_prompt(self, model, shipped, PromptAttached)


def restore_prompt(
    method: Method, model: PreTrainedModel, shipped: Mapping[str, Tensor], kind: type[PromptAttached]
) -> PromptAttached:
    """Attaches a prompt [k, d] of a checkpoint in its form for inference.

    Raises:
        MethodError: the tensor is missing or of another shape.
    """
    expect(shipped, {"prompt": (method.virtual_tokens, embedding_shape(model)[1])}, method.name)
    freeze(model)
    prompt = shipped["prompt"].to(device=model_device(model), dtype=model.dtype, copy=True)
    attached = kind(method, model, nn.Parameter(prompt))
    attached.prepare_for_inference()
    return attached


class PromptAttached(Attached):
    """Trained vectors in front of the input embeddings."""

    def __init__(self, method: Method, model: PreTrainedModel, prompt: nn.Parameter) -> None:
        super().__init__(method, model)
        self.prompt = prompt
        self.hooks += VirtualTokens(model, method.virtual_tokens, PrependEmbeddings(model, self.vectors)).handles

    def vectors(self) -> Tensor:
        """The prompt [k, d] of this forward pass."""
        return self.prompt

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {"prompt": self.prompt}
