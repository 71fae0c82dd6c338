"""The structure counter on graphs small enough to count by hand, and on a toy Llama."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from bench.instruments.structure import Structure, StructureCounter
from methods.compat import cache_argument

X = torch.ones(4, 4)
PRODUCT_FLOPS = 2 * 4 * 4 * 4


def count(function: Callable[[], object]) -> Structure:
    with torch.no_grad(), StructureCounter() as counter:
        function()
    return counter.result()


def test_serial_products_are_as_deep_as_many() -> None:
    """Three products one after another: a chain of three."""
    assert count(lambda: X @ X @ X @ X) == Structure(3, 3, 3, 3, 3 * PRODUCT_FLOPS)


def test_parallel_products_are_one_deep() -> None:
    """Two products of the same input and their sum: a chain of two operations, with one product on it."""
    assert count(lambda: X @ X + X @ X) == Structure(3, 2, 2, 1, 2 * PRODUCT_FLOPS)


def test_longest_chains_of_operations_and_products_may_be_different_paths() -> None:
    """Four additions beside two products: one chain of five operations, another of two products."""
    counted = count(lambda: (X + 1 + 1 + 1 + 1) + X @ X @ X)
    assert (counted.critical_path, counted.critical_path_matmuls, counted.operations) == (5, 2, 7)


def test_views_and_allocations_are_free_and_carry_depth() -> None:
    """Views, transposes, reinterpretations, detach and empty tensors count nothing; depth goes through them."""

    def function() -> None:
        y = X @ X
        z = y.t().reshape(-1)[:4].view(2, 2).detach().unsqueeze(0)
        torch.ops.aten._unsafe_view(y, [16])
        torch.empty(3)
        torch.empty_like(y)
        z + 1

    # The reshape of a transposed matrix copies: product, copy, sum.
    assert count(function) == Structure(3, 1, 3, 1, PRODUCT_FLOPS)


def test_in_place_writes_deepen_what_shares_the_storage() -> None:
    """A write through a view is seen through the base, and one through ``out=`` through the tensor written to."""

    def in_place() -> None:
        y = X.clone()
        y[0].add_(1)
        y @ X

    def out() -> None:
        y = torch.empty(4, 4)
        torch.mm(X, X, out=y)
        y @ X

    assert (count(in_place).operations, count(in_place).critical_path) == (3, 3)
    assert count(out) == Structure(2, 2, 2, 2, 2 * PRODUCT_FLOPS)


def test_tensors_in_lists_are_inputs() -> None:
    """``cat``, ``stack`` and foreach operations, which return nothing, depend on every tensor in their lists."""

    def foreach() -> None:
        y = X @ X
        torch._foreach_add_([y, X.clone()], 1)
        y @ X

    assert count(lambda: torch.cat([X, X @ X])).critical_path == 2
    assert count(lambda: torch.stack([X + 1, (X + 1) * 2])).critical_path == 3
    assert count(foreach).critical_path == 3


def test_dead_branches_count_but_do_not_lengthen_others() -> None:
    """An unused branch is work done: counted, and the chain is the longer of the two."""

    def function() -> None:
        (X + 1) * 2
        X @ X @ X @ X

    assert count(function) == Structure(5, 3, 3, 3, 3 * PRODUCT_FLOPS)


def test_freed_storages_leave_no_depth_behind() -> None:
    """A new tensor starts at depth one even where it takes the address of a dead one."""

    def function() -> None:
        for _ in range(50):
            X.clone()

    assert count(function) == Structure(50, 0, 1, 0, 0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (8,)])
def test_flops_of_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    """2·rows·in·out, one product, for any leading dimensions."""
    layer = nn.Linear(8, 5, bias=bias)
    counted = count(lambda: layer(torch.ones(shape)))
    rows = torch.ones(shape).numel() // 8
    assert (counted.matmuls, counted.flops) == (1, 2 * rows * 8 * 5)


@pytest.mark.parametrize("function", [torch.mv, torch.addmv, torch.dot], ids=lambda function: function.__name__)
def test_products_with_a_vector_are_products(function: Callable[..., Tensor]) -> None:
    """Matrix-vector and inner products, which torch's registry lacks, are counted and have their FLOPs."""
    arguments = {torch.mv: (X, X[0]), torch.addmv: (X[0], X, X[0]), torch.dot: (X[0], X[0])}[function]
    counted = count(lambda: function(*arguments))
    assert (counted.matmuls, counted.flops) == (1, 8 if function is torch.dot else 32)


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_attention_is_one_product_whatever_runs_it(backend: SDPBackend, masked: bool, grouped: bool) -> None:
    """Backend, mask and grouped heads change neither the operations nor the products nor the FLOPs."""
    query = torch.ones(2, 4, 3, 8)
    key = torch.ones(2, 2 if grouped else 4, 5, 8)
    mask = torch.zeros(2, 1, 3, 5) if masked else None
    with sdpa_kernel(backend):
        counted = count(
            lambda: scaled_dot_product_attention(query, key, value=key, attn_mask=mask, enable_gqa=grouped) + 1
        )
    flops = 2 * (2 * 4) * 3 * 5 * (8 + 8)
    assert counted == Structure(operations=2, matmuls=1, critical_path=2, critical_path_matmuls=1, flops=flops)


def test_four_bit_products_count_like_full_ones() -> None:
    """A bitsandbytes layer at inference is one product with the FLOPs of the layer that it stands for."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    counted = count(lambda: layer.eval()(torch.ones(3, 128)))
    assert (counted.matmuls, counted.critical_path_matmuls, counted.flops) == (1, 1, 2 * 3 * 128 * 64)


PROMPT = 8
CONFIG = LlamaConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def llama_structures(
    context: Callable[[], AbstractContextManager[object]], *, padded: bool = False
) -> tuple[Structure, Structure]:
    """Prefill and one decode step of the toy Llama, batch 2."""
    with context():
        model = LlamaForCausalLM(CONFIG).eval()
        ids = torch.zeros(2, PROMPT, dtype=torch.long)
        mask = torch.ones(2, PROMPT + 1, dtype=torch.long)
        if padded:
            mask[0, :3] = 0
        cache = {cache_argument(model): DynamicCache()}
        with StructureCounter() as prefill:
            model(input_ids=ids, attention_mask=mask[:, :PROMPT], **cache)
        with StructureCounter() as decode:
            model(input_ids=ids[:, :1], attention_mask=mask, **cache)
    return prefill.result(), decode.result()


def rotary_structure(length: int) -> Structure:
    """Of the rotary embedding alone: its angles are a matrix product in some releases of transformers."""
    model = LlamaForCausalLM(CONFIG).eval()
    with torch.no_grad(), StructureCounter() as counter:
        model.model.rotary_emb(torch.zeros(2, length, CONFIG.hidden_size), torch.arange(length)[None])
    return counter.result()


@pytest.mark.parametrize("padded", [False, True])
def test_a_llama_has_the_structure_of_its_formula(padded: bool) -> None:
    """L layers of q, k, v, attention, o, gate, up, down and a head: 8L + 1 products, 5L + 1 of them in a row."""
    prefill, decode = llama_structures(torch.no_grad, padded=padded)
    for counted in (prefill, decode):
        assert (counted.matmuls - rotary_structure(1).matmuls, counted.critical_path_matmuls) == (33, 21)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128  # q and o, k and v, gate, up and down
    expected = 2 * 2 * (4 * (layer + 2 * (PROMPT + 1) * 64) + 64 * 128)
    assert decode.flops - rotary_structure(1).flops == expected
    expected = 2 * 2 * PROMPT * (4 * (layer + 2 * PROMPT * 64) + 64 * 128)
    assert prefill.flops - rotary_structure(PROMPT).flops == expected


@pytest.mark.parametrize("context", [torch.inference_mode, torch.enable_grad])
def test_structure_does_not_depend_on_autograd(context: Callable[[], AbstractContextManager[object]]) -> None:
    """All metrics of prefill and decode are the same with autograd and in inference mode as under ``no_grad``."""
    assert llama_structures(context) == llama_structures(torch.no_grad)


def test_products_need_no_data() -> None:
    """Fake tensors give the same products and FLOPs; not operations, as transformers reads whether it needs a mask."""
    for fake, real in zip(llama_structures(FakeTensorMode), llama_structures(torch.no_grad), strict=True):
        assert (fake.matmuls, fake.critical_path_matmuls, fake.flops) == (
            real.matmuls,
            real.critical_path_matmuls,
            real.flops,
        )
