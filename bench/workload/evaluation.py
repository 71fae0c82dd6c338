"""How well a model predicts text: metrics over sums, so that no logits need to be kept, and the loop that feeds them.

The metrics are :class:`evaluate.Metric` classes that need no hub. They take sums over any stretch of text, a
sequence or a whole corpus, and add them up, so that batches of any size give the same metric.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.workload.hub import one_line

CHUNK_ELEMENTS = 2**24
"""Logits widened to float32 at a time, 64 MiB; a batch of 8 x 2048 tokens over 128k entries would take 8 GiB."""


class MetricError(ValueError):
    """A metric that cannot be had: one line saying what, and what to do about it."""


class SumMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A ratio of two sums, fed with ``add_batch(predictions=numerators, references=denominators)``."""

    about: str
    numerator: str
    denominator: str
    numerator_type = "float64"

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "keep_in_memory": True})

    def _build_data_dir(self) -> str:
        # evaluate makes a folder under the home folder even for what is kept in memory
        return str(self._data_dir_root)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description=f"predictions: {self.numerator}; references: {self.denominator}",
            features=datasets.Features(
                {"predictions": datasets.Value(self.numerator_type), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        if (total := sum(references)) <= 0:
            raise MetricError(
                f"{self.name}: there are no {self.denominator} to divide by: give text of at least two tokens"
            )
        return {self.name: self._scale(math.fsum(predictions) / total)}

    @staticmethod
    def _scale(ratio: float) -> float:
        return ratio


class TokenLoss(SumMetric):
    """Mean negative log-likelihood of a token, in nats."""

    about = "Mean negative log-likelihood of a token, in nats."
    numerator = "summed negative log-likelihood in nats"
    denominator = "predicted tokens"


class BitsPerByte(SumMetric):
    """Negative log-likelihood of a UTF-8 byte of text, in bits: comparable between tokenizers."""

    about = "Negative log-likelihood of a UTF-8 byte of text, in bits."
    numerator = "summed negative log-likelihood in nats"
    denominator = "UTF-8 bytes that the predicted tokens stand for"

    @staticmethod
    def _scale(ratio: float) -> float:
        return ratio / math.log(2)


class TokenAccuracy(SumMetric):
    """Share of tokens to which the model gives the highest probability."""

    about = "Share of tokens to which the model gives the highest probability."
    numerator = "correctly predicted tokens"
    denominator = "predicted tokens"
    numerator_type = "int64"


@dataclass(frozen=True)
class Quality:
    """How well a model predicts some text."""

    loss: float
    """Mean negative log-likelihood of a token, in nats."""
    bits_per_byte: float | None
    """None if the text's bytes are not known."""
    token_accuracy: float
    """From 0 to 1."""


def evaluate_model(model: nn.Module, sequences: Tensor, held_out_bytes: int | None, batch_size: int) -> Quality:
    """Measure a model on token blocks, leaving it in the mode, train or eval, that it was in.

    Args:
        model: ``model(input_ids=...)`` returns an object with ``logits`` [B, T, V] for the T real tokens.
        sequences: int64 [n, T]; each token but a sequence's first is predicted.
        held_out_bytes: UTF-8 bytes that the predicted tokens stand for, all together; None if they are not known.
        batch_size: sequences a forward pass.

    Raises:
        MetricError: there is nothing to predict, or the loss is not finite.
    """
    loss, bits, accuracy = TokenLoss(), BitsPerByte(), TokenAccuracy()
    count, length = sequences.shape
    if count == 0 or length < 2:
        raise MetricError(f"{count} sequences of {length} tokens leave nothing to predict: give one of at least two")
    total_nats = 0.0
    device = next(model.parameters()).device
    # no_grad, not inference_mode: a buffer that the model makes here and keeps could never be trained with again
    with _eval_mode(model), torch.no_grad():
        for batch in torch.split(sequences, batch_size):
            on_device = batch.to(device)
            logits: Tensor = model(input_ids=on_device).logits  # [B, T, V]
            nats, correct = _score(logits[:, :-1], on_device[:, 1:])
            tokens = [length - 1] * len(batch)
            loss.add_batch(predictions=nats, references=tokens)
            accuracy.add_batch(predictions=correct, references=tokens)
            total_nats += math.fsum(nats)
    if not math.isfinite(total_nats):
        raise MetricError("the loss is not finite: training diverged, lower the learning rate or use a wider dtype")
    bits_per_byte = None
    if held_out_bytes is not None:
        bits_per_byte = bits.compute(predictions=[total_nats], references=[held_out_bytes])["bits_per_byte"]
    return Quality(
        loss=loss.compute()["token_loss"],
        bits_per_byte=bits_per_byte,
        token_accuracy=accuracy.compute()["token_accuracy"],
    )


def load_metric(name: str) -> Any:
    """A metric of the hub, or of a local folder, by name, such as ``rouge``. Runs that metric's own published code.

    Raises:
        MetricError: it cannot be had here.
    """
    try:
        return evaluate.load(name, keep_in_memory=True)
    except FileNotFoundError as error:
        raise MetricError(
            f"metric '{name}' is neither here nor in the cache: check its name and the network"
        ) from error
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise MetricError(f"metric '{name}' cannot be loaded: {one_line(error, name)}") from error


def _score(logits: Tensor, targets: Tensor) -> tuple[list[float], list[int]]:
    """Per sequence: the summed negative log-likelihood in nats, and the number of tokens predicted right.

    Args:
        logits: [B, T - 1, V], of any floating-point type; widened to float32 a chunk of tokens at a time.
        targets: int64 [B, T - 1].
    """
    chunk = max(1, CHUNK_ELEMENTS // logits.shape[-1])
    nats, correct = [], []
    for sequence, wanted in zip(logits, targets, strict=True):
        pairs = list(zip(sequence.split(chunk), wanted.split(chunk), strict=True))
        losses = [functional.cross_entropy(part.float(), right, reduction="none") for part, right in pairs]
        hits = [part.argmax(-1) == right for part, right in pairs]
        nats.append(torch.cat(losses).cpu().double().sum().item())  # on the CPU, for some devices lack float64
        correct.append(int(torch.cat(hits).sum()))
    return nats, correct


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module gets its own mode back, for a frozen part may be in eval mode in training."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
