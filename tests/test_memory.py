"""The storage tracker against arithmetic done by hand, and against itself under fake tensors."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM

from bench.instruments.memory import Category, MemoryPeak, StorageTracker, storages, training_step_peak

FLOAT_BYTES = 4


def test_peak_is_the_largest_sum_of_live_storages() -> None:
    """The peak is the sum of what was alive at once, not of all that was allocated, and its parts add up to it."""
    weight = torch.zeros(100)
    tracker = StorageTracker()
    tracker.register([weight], Category.WEIGHTS)
    with tracker:
        doubled = weight * 2  # 400 more
        wide = torch.cat([doubled, doubled])  # 800 more: 1600
        del doubled  # 1200
        last = wide[:50] + 1  # 200 more: 1400
        del wide, last
    assert tracker.peak() == MemoryPeak(400, 0, 0, 1200)
    assert tracker.peak().total_bytes == 1600


def test_freed_storages_no_longer_count() -> None:
    """However many temporaries come and go, the peak is that of one; what is freed after the mode changes nothing."""
    x = torch.ones(100)
    with StorageTracker() as tracker:
        for _ in range(10):
            y = x + 1
            del y
        kept = x + 1
    before = tracker.peak()
    del kept, x
    assert tracker.peak() == before == MemoryPeak(0, 0, 0, 800)


def test_a_storage_counts_once() -> None:
    """Views, tied weights and in-place results share a storage and add nothing."""
    weight = torch.zeros(10, 10)
    tracker = StorageTracker()
    tracker.register([weight, weight.t(), weight[2:], nn.Parameter(weight)], Category.WEIGHTS)
    with tracker:
        weight.view(-1).add_(1).mul_(2)
        weight.unsqueeze(0).expand(5, 10, 10)
    assert tracker.peak() == MemoryPeak(400, 0, 0, 0)


def test_a_resized_storage_counts_at_its_new_size() -> None:
    """A storage grown in place counts in full, and is taken off in full when it dies."""
    with StorageTracker() as tracker:
        x = torch.empty(10)
        x.resize_(100)
        del x
        torch.empty(50)
    assert tracker.peak() == MemoryPeak(0, 0, 0, 400)


def test_a_category_holds_from_birth_and_the_first_one_stays() -> None:
    """A category learnt after the peak still applies at the peak, and a later one does not displace it."""
    with StorageTracker() as tracker:
        x = torch.zeros(100)
        y = x + 1
        del y
        tracker.register([x], Category.GRADIENTS)
        tracker.register([x], Category.OPTIMIZER_STATE)
    assert tracker.peak() == MemoryPeak(0, 400, 0, 400)


@pytest.mark.parametrize("bias", [False, True])
def test_an_adamw_step_is_exact_arithmetic(bias: bool) -> None:
    """At the peak of a second AdamW step: n weights, n gradients, two moments of n, one step count a parameter."""
    model = nn.Linear(64, 32, bias=bias)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    x = torch.ones(1, 64)

    def step() -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    peak = training_step_peak(step, model.parameters(), optimizer)
    tensors = list(model.parameters())
    model_bytes = FLOAT_BYTES * sum(tensor.numel() for tensor in tensors)
    assert peak.weights_bytes == model_bytes
    assert peak.gradients_bytes == model_bytes
    assert peak.optimizer_state_bytes == 2 * model_bytes + FLOAT_BYTES * len(tensors)
    assert peak == training_step_peak(step, model.parameters(), optimizer), "a count has no noise"


def llama_peak(tokens: int, *, fake: str) -> tuple[MemoryPeak, int]:
    """Peak of a step that trains only the query projections of a toy Llama, and the bytes of those projections."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    mode = FakeTensorMode() if fake else nullcontext()
    inner = mode if fake == "inside" else nullcontext()
    with mode:
        model = LlamaForCausalLM(config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("q_proj" in name)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        ids = torch.randint(config.vocab_size, (1, tokens))

    def step() -> None:
        with inner:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    with mode if fake == "outside" else nullcontext():
        step()
        peak = training_step_peak(step, [*model.parameters(), *model.buffers()], optimizer)
    return peak, FLOAT_BYTES * sum(parameter.numel() for parameter in trained)


@pytest.mark.parametrize("tokens", [2, 64])
@pytest.mark.parametrize("fake", ["outside", "inside"])
def test_fake_tensors_give_the_same_peak(tokens: int, fake: str) -> None:
    """Without a single number computed, the peak and its split equal the real ones, in either nesting of the modes."""
    assert llama_peak(tokens, fake=fake) == llama_peak(tokens, fake="")


def test_frozen_weights_have_no_gradient_bytes() -> None:
    """With a batch too small to set the peak, gradients and optimiser state are those of the trained weights alone."""
    peak, trained_bytes = llama_peak(2, fake="")
    assert peak.gradients_bytes == trained_bytes
    assert peak.optimizer_state_bytes == 2 * trained_bytes + 2 * FLOAT_BYTES


def test_four_bit_weights_count_as_they_are_stored() -> None:
    """A bitsandbytes layer counts its packed bytes and its quantisation state, and no gradient."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = bitsandbytes.nn.Linear4bit(
        128, 64, bias=False, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
    ).to("cpu")
    state = base.weight.quant_state
    nested = state.state2
    weights: list[Tensor] = [base.weight, state.absmax, state.code, state.offset, nested.absmax, nested.code]
    adapter = nn.Parameter(torch.zeros(256, 128))
    optimizer = torch.optim.AdamW([adapter], foreach=False)
    x = torch.ones(1, 128)

    def step() -> None:
        (base(x).sum() + (adapter @ x.t()).sum()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    peak = training_step_peak(step, weights, optimizer)
    assert base.weight.nbytes == 128 * 64 // 2
    assert peak.weights_bytes == adapter.nbytes + sum(tensor.nbytes for tensor in weights)
    assert peak.gradients_bytes == adapter.nbytes


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_sparse_tensor_counts_as_its_parts(layout: torch.layout) -> None:
    """Values and indices are what is in memory; some methods of peft have such tensors."""
    dense = torch.zeros(8, 8)
    dense[0, :5] = 1.0
    with StorageTracker() as tracker:
        sparse = dense.to_sparse(layout=layout)
        parts = list(storages(sparse))
    assert sum(part.nbytes() for part in parts) >= 5 * FLOAT_BYTES
    # the dense one, which it was made of, counts too
    assert tracker.peak().total_bytes >= dense.untyped_storage().nbytes() + sum(part.nbytes() for part in parts)
