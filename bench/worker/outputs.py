"""Outputs of two forms of one model, compared on the same held-out text."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config.sources import Dtype
from bench.workload.corpus import Corpus

ROUNDING = {Dtype.float32: 1e-4, Dtype.bfloat16: 1e-1}
"""The largest error that rounding explains, by dtype."""


def logits(model: PreTrainedModel, corpus: Corpus) -> Tensor:
    """Logits [1, T, V] of the first held-out sequence, in float32."""
    with torch.no_grad():
        ids = corpus.held_out[:1].to(next(model.parameters()).device)
        found: Tensor = model(input_ids=ids).logits.float()
    return found


def distance(before: Tensor, after: Tensor) -> float:
    """Largest difference of a logit over the largest logit before."""
    return float((after - before).abs().max() / before.abs().max())
