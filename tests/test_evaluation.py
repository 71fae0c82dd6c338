"""Metrics: metrics that can be worked out by hand, whatever the batching, leaving no trace."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.config.sources import ModelConfig
from bench.workload import evaluation as metrics
from bench.workload.evaluation import BitsPerByte, MetricError, TokenAccuracy, TokenLoss, evaluate_model, load_metric
from bench.workload.models import load_model

VOCABULARY = 37
SEQUENCES = torch.arange(5 * 9).reshape(5, 9) % VOCABULARY


class Fake(nn.Module):
    """A model whose logits are a function of the input ids alone."""

    def __init__(self, confidence: float) -> None:
        super().__init__()
        self.confidence = nn.Parameter(torch.tensor(confidence))

    def forward(self, input_ids: Tensor) -> Any:
        following = functional.one_hot((input_ids + 1) % VOCABULARY, VOCABULARY)
        return SimpleNamespace(logits=following * self.confidence)


@pytest.fixture
def llama() -> nn.Module:
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return load_model(ModelConfig("m", architecture="llama", settings={**settings, "vocab_size": VOCABULARY}), "cpu", 0)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    """A model that knows nothing needs log V nats a token, and log2 V bits spread over the token's bytes."""
    quality = evaluate_model(Fake(0.0), SEQUENCES, held_out_bytes=5 * 8 * 2, batch_size=2)
    assert quality.loss == pytest.approx(math.log(VOCABULARY))
    assert quality.bits_per_byte == pytest.approx(math.log2(VOCABULARY) / 2)


def test_a_perfect_model_is_always_right() -> None:
    """Accuracy reaches 1 and loss 0 for a model that knows the next token."""
    assert evaluate_model(Fake(100.0), SEQUENCES, held_out_bytes=None, batch_size=3).bits_per_byte is None
    quality = evaluate_model(Fake(100.0), SEQUENCES, held_out_bytes=40, batch_size=3)
    assert (quality.token_accuracy, quality.loss) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert evaluate_model(Fake(-100.0), SEQUENCES, held_out_bytes=40, batch_size=3).token_accuracy == 0.0


@pytest.mark.parametrize("chunk_elements", [1, 3 * VOCABULARY, 2**24])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_model_scores_what_cross_entropy_says(
    llama: nn.Module, batch_size: int, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither batches nor chunks change the metric that one cross-entropy over all logits gives."""
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", chunk_elements)
    with torch.no_grad():
        logits = llama(input_ids=SEQUENCES).logits[:, :-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), SEQUENCES[:, 1:].flatten()).item()
    quality = evaluate_model(llama, SEQUENCES, held_out_bytes=100, batch_size=batch_size)
    assert quality.loss == pytest.approx(expected, rel=1e-6)
    assert quality.bits_per_byte == pytest.approx(expected * 40 / 100 / math.log(2), rel=1e-6)
    assert quality.token_accuracy == pytest.approx((logits.argmax(-1) == SEQUENCES[:, 1:]).double().mean().item())


def test_half_precision_logits_are_widened(llama: nn.Module) -> None:
    """The softmax of a bfloat16 model is taken in float32, as exactly as its logits allow."""
    half = llama.to(torch.bfloat16)
    with torch.no_grad():
        logits = half(input_ids=SEQUENCES).logits[:, :-1].double()
    expected = functional.cross_entropy(logits.flatten(0, 1), SEQUENCES[:, 1:].flatten()).item()
    assert evaluate_model(half, SEQUENCES, 40, batch_size=2).loss == pytest.approx(expected, rel=1e-6)


def test_each_module_gets_its_mode_back(llama: nn.Module) -> None:
    """Evaluation in the middle of training changes no mode, no gradient, and no later training step."""
    llama.train()
    frozen = next(module for module in llama.modules() if isinstance(module, nn.Linear))
    frozen.eval()
    modes = [module.training for module in llama.modules()]
    evaluate_model(llama, SEQUENCES, 40, batch_size=2)
    assert [module.training for module in llama.modules()] == modes
    assert all(parameter.grad is None for parameter in llama.parameters())
    llama(input_ids=SEQUENCES).logits.sum().backward()


def test_bits_per_byte_by_hand() -> None:
    """8 ln 2 nats over four bytes, and nothing over four more, are one bit a byte."""
    assert BitsPerByte().compute(predictions=[8 * math.log(2), 0.0], references=[4, 4]) == {
        "bits_per_byte": pytest.approx(1.0)
    }


def test_metrics_take_batches_of_any_size() -> None:
    """Adding one by one, in batches or all at once is the same; a metric can be used again after it has answered."""
    metric = TokenLoss()
    for nats, tokens in ((3.0, 2), (5.0, 6)):
        metric.add(prediction=nats, reference=tokens)
    assert metric.compute() == {"token_loss": 1.0}
    metric.add_batch(predictions=[3.0], references=[2])
    metric.add_batch(predictions=[5.0], references=[6])
    assert metric.compute() == {"token_loss": 1.0}
    assert TokenAccuracy().compute(predictions=[1, 2], references=[2, 4]) == {"token_accuracy": 0.5}


def test_metrics_leave_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written, so that processes side by side share nothing."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path / "metrics")
    evaluate_model(Fake(1.0), SEQUENCES, 40, batch_size=2)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_an_error() -> None:
    """No tokens, no bytes or no finite loss give one line, never a metric."""
    for sequences, held_out_bytes, confidence, message in (
        (SEQUENCES[:0], 40, 1.0, "nothing to predict"),
        (SEQUENCES[:, :1], 40, 1.0, "nothing to predict"),
        (SEQUENCES, 0, 1.0, "no UTF-8 bytes"),
        (SEQUENCES, 40, math.nan, "not finite"),
    ):
        with pytest.raises(MetricError, match=message):
            evaluate_model(Fake(confidence), sequences, held_out_bytes, batch_size=2)


def test_a_metric_that_cannot_be_had_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hub metrics work where there is a hub; elsewhere the reason is one line."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    for name in ("no_such_metric", str(tmp_path / "absent")):
        with pytest.raises(MetricError, match="metric '") as caught:
            load_metric(name)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_local_metric_is_loaded_by_its_folder(tmp_path: Path) -> None:
    """A metric script on disk, written as for the hub, works by path."""
    script = tmp_path / "mine" / "mine.py"
    script.parent.mkdir()
    script.write_text("from bench.workload import evaluation\nclass Mine(evaluation.TokenLoss):\n    pass\n")
    program = (
        "from bench.workload.evaluation import load_metric\n"
        f"assert load_metric({str(script.parent)!r}).compute(predictions=[4.0], references=[2]) == {{'mine': 2.0}}"
    )
    # a process of its own, for evaluate settles where it copies scripts to when it is imported
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent, env=environment)
