"""P-tuning v1 (Liu et al. 2021, https://arxiv.org/abs/2103.10385, section 3.2): an encoder makes the prompt vectors.

k placeholder embeddings go through a bidirectional LSTM with two layers and an MLP with two, or, as in later variants,
through an MLP with three layers. When training ends, the encoder is run once and dropped; k x d numbers are shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.architectures import embedding_shape, model_device
from methods.base import Attached, Count, Method, freeze
from methods.prompt_tuning import PromptAttached, restore_prompt
from methods.validators import PositiveInt
from methods.virtual import PrependEmbeddings


class Encoder(StrEnum):
    """The network that maps placeholders to prompt vectors."""

    lstm = "lstm"
    mlp = "mlp"


@dataclass(frozen=True, kw_only=True)
class PTuning(Method):
    """``num_virtual_tokens`` vectors made by an encoder of width ``encoder_hidden_size``."""

    name: ClassVar[str] = "p_tuning"
    identity: ClassVar[bool] = False

    num_virtual_tokens: PositiveInt = 20
    encoder: Encoder = Encoder.lstm
    encoder_hidden_size: PositiveInt | None = None
    """h. None stands for d / 2: both directions together are then d wide, as in the authors' code."""

    @property
    def size(self) -> int:
        return self.num_virtual_tokens

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def width(self, model: PreTrainedModel) -> int:
        """h for this model."""
        return self.encoder_hidden_size or max(1, embedding_shape(model)[1] // 2)

    def check(self, model: PreTrainedModel) -> None:
        super().check(model)
        PrependEmbeddings.check(model)

    def count(self, model: PreTrainedModel) -> Count:
        k, d, h = self.num_virtual_tokens, embedding_shape(model)[1], self.width(model)
        if self.encoder is Encoder.lstm:
            # two directions with four gates and two biases each; the second layer reads both directions of the first
            lstm = 2 * 4 * h * (d + h + 2) + 2 * 4 * h * (2 * h + h + 2)
            mlp = 2 * h * (2 * h) + 2 * h + 2 * h * d + d
            encoder = lstm + mlp
        else:
            encoder = d * h + h + h * h + h + h * d + d
        return Count(trained=k * d + encoder, shipped=k * d)

    def _attach(self, model: PreTrainedModel) -> Attached:
        freeze(model)
        encoder = PromptEncoder(self, embedding_shape(model)[1], self.width(model), model_device(model), model.dtype)
        return PTuningAttached(self, model, encoder.placeholders, encoder)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        return restore_prompt(self, model, shipped, PTuningAttached)


class PromptEncoder(nn.Module):
    """Maps k placeholders [k, d] to prompt vectors [k, d]."""

    def __init__(self, method: PTuning, d: int, h: int, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.placeholders = nn.Parameter(torch.randn(method.num_virtual_tokens, d, **like))
        self.lstm: nn.LSTM | None = None
        if method.encoder is Encoder.lstm:
            self.lstm = nn.LSTM(d, h, num_layers=2, bidirectional=True, batch_first=True, **like)
            self.mlp = nn.Sequential(nn.Linear(2 * h, 2 * h, **like), nn.ReLU(), nn.Linear(2 * h, d, **like))
        else:
            self.mlp = nn.Sequential(
                nn.Linear(d, h, **like), nn.ReLU(), nn.Linear(h, h, **like), nn.ReLU(), nn.Linear(h, d, **like)
            )

    def forward(self) -> Tensor:
        hidden = self.placeholders if self.lstm is None else self.lstm(self.placeholders)[0]
        vectors: Tensor = self.mlp(hidden)
        return vectors


class PTuningAttached(PromptAttached):
    """A prompt whose encoder runs at every step, until `prepare_for_inference` keeps its last output instead."""

    def __init__(
        self, method: Method, model: PreTrainedModel, prompt: nn.Parameter, encoder: PromptEncoder | None = None
    ) -> None:
        """``prompt`` [k, d] is put in front of the input when there is no encoder."""
        self.encoder = encoder
        super().__init__(method, model, prompt)

    def vectors(self) -> Tensor:
        if self.encoder is None:
            return self.prompt
        vectors: Tensor = self.encoder()
        return vectors

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return super().named_parameters() if self.encoder is None else dict(self.encoder.named_parameters())

    def shipped(self) -> dict[str, Tensor]:
        return {"prompt": self.vectors().detach()}

    def prepare_for_inference(self) -> None:
        if self.encoder is not None:
            self.prompt = nn.Parameter(self.vectors().detach())
            self.encoder = None
        super().prepare_for_inference()
