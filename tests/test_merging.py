"""What a merge does to a weight, and what 4 bits keep of it, in other words than the methods' own."""

from __future__ import annotations

import copy
from typing import Any, cast

import bitsandbytes
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.architectures import architecture_of
from methods.lora import Lora, LowRank
from methods.qlora import Qlora
from tests.families import build
from tests.test_conformance import logits, tokens


def target(model: PreTrainedModel, role: str) -> str:
    """Path of the module that plays ``role`` in the first layer."""
    return architecture_of(model).projections(model, [role])[0].path


def inputs(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_bigcode", "gpt_neox"])
def test_merging_changes_the_weight_by_the_product(family: str) -> None:
    """The merged module gives y + alpha / r B A x for any x, not only where merged and unmerged share a mistake."""
    model = build(family)
    path = target(model, "v")
    attached = Lora(rank=3, alpha=12.0, targets=("v",)).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    unmerged = model.get_submodule(path)(inputs())
    attached.merge()
    torch.testing.assert_close(model.get_submodule(path)(inputs()), unmerged, atol=1e-4, rtol=1e-4)


def test_a_merge_rounds_once() -> None:
    """In bfloat16 the sum is taken in float32 and rounded at the end: no weight is further off than that rounding."""
    model = build("llama").to(torch.bfloat16)
    path = target(model, "v")
    before = cast(Tensor, model.get_submodule(path).weight).detach().float()
    attached = Lora(rank=3, alpha=12.0, targets=("v",)).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    branch = cast(Any, model.get_submodule(path)).branches[0]
    exact = before + 12.0 / 3 * (branch.B.detach().float() @ branch.A.detach().float())
    attached.merge()
    assert torch.equal(cast(Tensor, model.get_submodule(path).weight), exact.to(torch.bfloat16))


def test_a_merge_leaves_a_model_that_shares_the_weights_alone() -> None:
    """Two models may share storage, as arms of a measurement do where copies do not fit."""
    other = build("llama")
    model = copy.deepcopy(other, {id(tensor): tensor for tensor in (*other.parameters(), *other.buffers())})
    before = logits(other, tokens())
    attached = Lora(rank=3).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    attached.merge()
    assert torch.equal(logits(other, tokens()), before)
    assert not torch.equal(logits(model, tokens()), before)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("family", "role"), [("llama", "gate"), ("qwen2", "q"), ("gpt2", "up"), ("gpt_neox", "up")])
def test_a_layer_in_4_bits_is_the_rounded_layer(family: str, role: str, double: bool) -> None:
    """It computes W x + b with W as bitsandbytes rounds it by itself, stored as [out, in], and b as it was."""
    model = build(family)
    path = target(model, role)
    dense = model.get_submodule(path)
    weight, bias = cast(Tensor, dense.weight).detach(), dense.bias
    if isinstance(bias, nn.Parameter):
        bias.data.normal_()  # transformers starts biases at zero
    weight = (weight.t() if isinstance(dense, Conv1D) else weight).contiguous()
    packed = bitsandbytes.functional.quantize_4bit(weight, compress_statistics=double, quant_type="nf4")
    rounded = bitsandbytes.functional.dequantize_4bit(*packed)
    Qlora(rank=2, double_quantization=double).attach(model)
    module = model.get_submodule(path)
    layer = module.base if isinstance(module, LowRank) else module
    expected = nn.functional.linear(inputs(), rounded, cast("Tensor | None", bias))
    torch.testing.assert_close(cast(nn.Module, layer)(inputs()), expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(rounded, weight)


VALUES = {
    "llama": list(range(16)),
    "gpt2": list(range(64, 96)),
    "gpt_neox": [24 * head + row for head in range(4) for row in range(16, 24)],
}
"""Rows of v in the matrix that holds it: all, the last third, or the last third of each head's."""


@pytest.mark.parametrize("family", VALUES)
def test_a_merge_into_4_bits_rounds_the_sum(family: str) -> None:
    """The merged weight is what bitsandbytes makes of the dequantized one plus alpha / r B A on the rows of v."""
    model = build(family)
    path = target(model, "v")
    attached = Qlora(rank=3, alpha=12.0, targets=("v",)).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_(std=0.1)  # a change as large as the weights
    wrapper = cast(Any, model.get_submodule(path))
    packed, branch = wrapper.base.weight, wrapper.branches[0]
    total = bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
    total[VALUES[family]] += 12.0 / 3 * (branch.B.detach() @ branch.A.detach())
    expected = bitsandbytes.functional.quantize_4bit(total, compress_statistics=True, quant_type="nf4")
    attached.merge()
    merged = cast(Any, model.get_submodule(path)).weight
    torch.testing.assert_close(
        bitsandbytes.functional.dequantize_4bit(merged.data, merged.quant_state),
        bitsandbytes.functional.dequantize_4bit(*expected),
    )
