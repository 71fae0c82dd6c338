"""Which operators compute products, what they cost, and which are known to compute none.

A product contracts tensors: a matrix product, a convolution, fused attention, a recurrent layer. Each operator of the
table is one product, however many it batches: ``bmm`` over all heads, ``_grouped_mm`` over all experts. A multiply-add
is two FLOPs; causality, padding and sparsity are ignored, and so is elementwise arithmetic.

Of all other operators it must be known that they compute no product. torch's tags say so of most of them; the rest is
listed by name. An operator about which nothing is known, such as a kernel of another package, is neither.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

Formula = Callable[..., int]
"""FLOPs of one call; gets what the call returned, and then the arguments of the call."""


def attention_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Query [..., T, d], key [..., S, d], value [..., S, v]: T·S·d for scores and T·S·v for the mix, per query head."""
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _matmul(_: object, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    """a [..., m, k] times b [..., k, n]; a sum of such products costs as much as they do."""
    return 2 * a.numel() * b.shape[-1]


def _added_matmul(out: object, _: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return _matmul(out, a, b)


def _matrix_vector(_: object, matrix: Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(out: object, _: Tensor, matrix: Tensor, *__: Any, **___: Any) -> int:
    return _matrix_vector(out, matrix)


def _elements(out: Tensor, *_: Any, **__: Any) -> int:
    """An outer product: one multiply-add for each element of the result."""
    return 2 * out.numel()


def _vecdot(_: object, x: Tensor, y: Tensor, *__: Any, **___: Any) -> int:
    return int(2 * math.prod(torch.broadcast_shapes(x.shape, y.shape)))


def _grouped_matmul(_: object, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    """One product a group. Where only a has a dimension of groups, b [k, n] holds all groups' columns side by side."""
    return 2 * a.numel() * b.shape[-1] // (a.shape[0] if a.ndim > b.ndim else 1)


def _twice(forward: Formula) -> Formula:
    """Of the backward pass that starts with the same arguments: a gradient for each of two factors."""
    return lambda *args, **kwargs: 2 * forward(*args, **kwargs)


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """Each position of the output (of the input, if transposed) meets the whole weight [out, in / groups, ...]."""
    transposed: bool = rest[4]
    return 2 * len(x) * math.prod((x if transposed else out).shape[2:]) * weight.numel()


def _convolution_backward(_: object, gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """Each of the two gradients that are wanted costs as much as the forward pass."""
    wanted: list[bool] = rest[-1][:2]
    return sum(wanted) * _convolution(gradient, x, weight, *rest)


def _attention(_: object, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    return attention_flops(query, key, value)


def _attention_backward(
    _: object, __: Tensor, query: Tensor, key: Tensor, value: Tensor, *___: Any, **____: Any
) -> int:
    """Four products for the two of the forward pass; scores that are computed again are not counted."""
    return 2 * attention_flops(query, key, value)


def _recurrent(_: object, x: Tensor, *rest: Any) -> int:
    """x [..., in]: each position meets every weight matrix of the layer once."""
    weights = rest[:2] if isinstance(rest[0], Tensor) else rest[0]
    return int(2 * math.prod(x.shape[:-1]) * sum(weight.numel() for weight in weights if weight.ndim == 2))


def _triangular_solve(out: Tensor, matrix: Tensor, *_: Any, **__: Any) -> int:
    """matrix [..., n, n]: half the multiply-adds of a product with it for each element of the solution."""
    return out.numel() * matrix.shape[-1]


def _packed(_: object, x: Tensor, __: Tensor, shape: list[int], *___: Any, **____: Any) -> int:
    """x [..., in] times a 4-bit weight of logical ``shape`` [out, in]; dequantizing is no product."""
    return 2 * x.numel() * shape[0]


def _int8(_: object, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    """a [..., in] times the transpose of b [out, in]."""
    return 2 * a.numel() * b.shape[0]


FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
)
_MATMULS = ("mm", "bmm", "_int_mm", "_scaled_mm", "_scaled_mm_v2")
_ADDED_MATMULS = ("addmm", "baddbmm", "addbmm", "_addmm_activation")
_GROUPED_MATMULS = ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")
PRODUCTS: Mapping[str, Formula] = {
    **{f"aten::{name}": _matmul for name in _MATMULS},
    **{f"aten::{name}": _added_matmul for name in _ADDED_MATMULS},
    **{f"aten::{name}": _grouped_matmul for name in _GROUPED_MATMULS},
    **{f"aten::{name}": _matrix_vector for name in ("mv", "dot", "vdot")},
    "aten::addmv": _added_matrix_vector,
    "aten::addr": _elements,
    "aten::convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    **{f"aten::{name}": _attention for name in FUSED_ATTENTION},
    **{f"aten::{name}_backward": _attention_backward for name in FUSED_ATTENTION},
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::mkldnn_rnn_layer_backward": _twice(_recurrent),
    "aten::_cudnn_rnn": _recurrent,
    "aten::_cudnn_rnn_backward": _twice(_recurrent),
    "aten::linalg_solve_triangular": _triangular_solve,
    "transformers::grouped_mm_fallback": _grouped_matmul,
    "transformers::grouped_mm_fallback_backward": _twice(_grouped_matmul),
    "bitsandbytes::gemm_4bit": _packed,
    "bitsandbytes::gemv_4bit": _packed,
    "bitsandbytes::int8_linear_matmul": _int8,
    "bitsandbytes::int8_scaled_mm": _int8,
    "bitsandbytes::int8_mixed_scaled_mm": lambda out, a, _, b, *__: _int8(out, a, b),
}
"""By qualified name, because a package may not be installed, nor an operator be there in each release of torch."""

WHOLE: Mapping[Callable[..., Any], Formula] = {
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.outer: _elements,
    torch.ger: _elements,
    Tensor.outer: _elements,
    Tensor.ger: _elements,
    torch.linalg.vecdot: _vecdot,
}
"""Functions that are one product each, though torch makes them of others, or of elementwise operations."""

_FREE_TAGS = {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.view_copy, torch.Tag.core}
"""Torch calls its operator set "core"; those that compute products are in `PRODUCTS`, or excepted here."""
_CORE_ARITHMETIC = ("_cdist_forward", "_pdist_forward", "_fft_")
_FREE_ENDS = ("_like", "_scatter")
_FREE = re.compile(
    # movement of data, indexing, sorting, counting
    "stack|block_diag|roll|tril|triu|unfold|diag_embed|masked_fill|masked_select|index_add|index_copy|index_fill|"
    "index_reduce|take|put|scatter_add|repeat_interleave|zero|set|lift_fresh|_pin_memory|slice|select|diagonal|im2col|"
    "pixel_shuffle|pixel_unshuffle|histc|bincount|_unique2|unique_dim|unique_consecutive|unique_dim_consecutive|isin|"
    "searchsorted|bucketize|kthvalue|median|nanmedian|mode|cumprod|logcumsumexp|_logcumsumexp|_cummax_helper|"
    "_cummin_helper|_is_all_true|_is_any_true|_reshape_copy|_chunk_cat|split_with_sizes_copy|"
    # random numbers
    "bernoulli|exponential|uniform|normal|random|geometric|cauchy|log_normal|multinomial|randint_like|"
    # elementwise, softmax, normalization, losses
    "floor_divide|polar|complex|log_sigmoid_forward|log_sigmoid|glu|_prelu_kernel|_safe_softmax|_masked_softmax|"
    "_fused_dropout|_masked_scale|_fused_rms_norm|rms_norm|native_batch_norm|cudnn_batch_norm|renorm|embedding_renorm|"
    "_weight_norm_interface|linalg_cross|nll_loss_forward|nll_loss|nll_loss2d_forward|nll_loss2d|mse_loss|huber_loss|"
    "smooth_l1_loss|binary_cross_entropy|soft_margin_loss|multi_margin_loss"
)
"""Operators without such a tag; in-place forms (``_``) and those of the backward pass go by the name of the other."""
_FREE_ELSEWHERE = frozenset(
    f"bitsandbytes::{name}"
    for name in (
        "quantize_4bit",
        "dequantize_4bit",
        "quantize_blockwise",
        "dequantize_blockwise",
        "int8_mm_dequant",
        "int8_vectorwise_quant",
        "int8_vectorwise_dequant",
        "int8_double_quant",
    )
)
_FORMS = ("_", "_data", "_backward", "_dense")
"""Endings of in-place operators and of those that compute gradients, outermost first."""


def formula_of(operator: Any) -> Formula | None:
    """The formula of an operator (``torch._ops.OpOverload``) or of what it does in place; None if it has none."""
    name = operator._schema.name
    return PRODUCTS.get(name) or PRODUCTS.get(name.removesuffix("_"))


@cache
def is_free_of_products(operator: Any) -> bool:
    """Whether an operator without a formula is known to compute no product.

    A new tensor from numbers, elementwise work, reductions, softmax and normalization, movement of data, indexing,
    sorting and random numbers are none.
    """
    namespace, _, name = operator._schema.name.partition("::")
    if namespace != "aten":
        return operator._schema.name in _FREE_ELSEWHERE
    if not any("Tensor" in str(argument.type) for argument in operator._schema.arguments):
        return True
    stem = name.removeprefix("_foreach_")
    for form in _FORMS:
        stem = stem.removesuffix(form)
    if f"aten::{stem}" in PRODUCTS or name.startswith(_CORE_ARITHMETIC):
        return False
    if _FREE.fullmatch(stem) or stem.startswith("new_") or stem.endswith(_FREE_ENDS):
        return True
    return bool((_tags(name) | _tags(stem)) & _FREE_TAGS)


def _tags(name: str) -> set[torch.Tag]:
    """The tags of all overloads of an operator of torch, because some forms lack those of the others."""
    packet = getattr(torch.ops.aten, name, None)
    return {tag for overload in packet.overloads() for tag in getattr(packet, overload).tags} if packet else set()
