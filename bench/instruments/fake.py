"""Tensors without data: shapes, dtypes and lifetimes of a real run, on any device or none.

On a machine without a card, and on every other one alike, tensors on the processor stand in for those on CUDA: autograd
does not run on fake CUDA tensors where torch is built without CUDA. Operations are then the same but for those whose
composite implementation asks which device it is on; `CudaKernels` makes these choose as they would on CUDA. Recurrent
layers alone stay as they are on the processor, and what cuDNN keeps of them for the backward pass is not counted.
"""

# torch leaves its mode classes unannotated:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import masking_utils

from bench.instruments.fake_bitsandbytes import fake_bitsandbytes

FLASH_LARGEST_HEAD = 256
ALIGNED_HEAD = 8
"""Flash attention pads the head size to a multiple of this."""
ALIGNED_BYTES = 16
"""Memory-efficient attention needs rows of keys and queries that are aligned so."""
ALIGNED_MASK = 8
"""Memory-efficient attention pads the last dimension of a mask to a multiple of this."""


@contextmanager
def fake_tensors(cuda: bool) -> Iterator[None]:
    """Tensors made inside have no data; with ``cuda`` they are treated as if they were on a CUDA device."""
    masks: Any = masking_utils
    tracing, exchange = masks.is_tracing, torch.utils.swap_tensors
    # transformers asks whether a batch is padded or packed, and takes the worst for granted where it can't read it: a
    # causal mask that a real step has not, and repeated key and value heads
    masks.is_tracing = lambda tensor=None: False
    # a module that is moved changes its parameters in place; where they are fake it exchanges them, which torch refuses
    # of a tensor with weak references, such as fake tensors' mode keeps
    torch.utils.swap_tensors = _change
    try:
        with _PlainBatches(workspaces=not cuda), CudaKernels() if cuda else nullcontext(), fake_bitsandbytes():
            yield
    finally:
        masks.is_tracing, torch.utils.swap_tensors = tracing, exchange


def _change(tensor: Tensor, into: Tensor) -> None:
    tensor.data = into.data


class _PlainBatches(FakeTensorMode):
    """Conditions on data are true: those that are asked are whether a mask is all ones, positions consecutive, and a
    loss finite. Any other reading of a number raises torch's ``DataDependentOutputException``."""

    def __init__(self, workspaces: bool) -> None:
        super().__init__()
        self._workspaces = workspaces

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype is torch.bool:
            return True
        if func is torch.ops.prim.device.default and not self.in_kernel_invocation:
            # what torch would come to as well, but two in three of all calls are this one
            return args[0].fake_device
        if func is torch.ops.aten._grouped_mm.default and args[0].dtype is not torch.bfloat16:
            # kernels take other types too, torch's own function for shapes does not
            with self:
                return args[0].new_empty(_grouped_shape(*args[:2], *args[2:3] or (kwargs or {}).values()))
        out: Any = super().__torch_dispatch__(func, types, args, kwargs or {})
        if func is torch.ops.aten.mkldnn_rnn_layer.default and self._workspaces:
            with self:
                return (*out[:3], torch.empty(_workspace_bytes(func, args), dtype=torch.uint8))
        return out


def _grouped_shape(a: Tensor, b: Tensor, ends: Tensor | None = None, *_: Any) -> tuple[int, ...]:
    """Of the products of a [m, k] or [G, m, k] with b [k, n] or [G, k, n]. ``ends`` [G] split what has no groups."""
    inside = (a.shape[-2], b.shape[-1])
    if a.ndim != b.ndim:
        return inside
    return (len(a) if ends is None else len(ends), *inside)


def _workspace_bytes(layer: Any, args: tuple[Any, ...]) -> int:
    """What a recurrent layer keeps for its backward pass: only oneDNN knows, so it is run on zeros once."""
    shapes = [(arg.shape, arg.dtype) if isinstance(arg, Tensor) else None for arg in args]
    with unset_fake_temporarily():
        real = [
            arg if shape is None else torch.zeros(shape[0], dtype=shape[1])
            for arg, shape in zip(args, shapes, strict=True)
        ]
        return int(layer(*real)[3].nbytes)


class CudaKernels(TorchFunctionMode):
    """Calls what CUDA would, of functions that are made of other operations there than on the processor."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``scaled_dot_product_attention`` by the kernel that torch takes on CUDA (Ampere and later), in its order.

    query [B, H, T, d], key [B, G, S, d], value [B, G, S, d], the mask broadcasts to [B, H, T, S]; [B, H, T, d].
    """
    head, half = query.shape[-1], query.dtype in (torch.bfloat16, torch.float16)
    same = head == key.shape[-1] == value.shape[-1]
    if half and same and attn_mask is None and head <= FLASH_LARGEST_HEAD:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    mask = attn_mask
    if mask is not None and mask.dtype is torch.bool:
        mask = torch.where(mask, 0.0, torch.full((), -math.inf, dtype=query.dtype))
    aligned = all(size * query.element_size() % ALIGNED_BYTES == 0 for size in (head, value.shape[-1]))
    if aligned and query.shape[1] == key.shape[1] == value.shape[1]:
        return _efficient(query, key, value, mask, dropout_p, is_causal, scale)
    out: Tensor = torch.ops.aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return out


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float, is_causal: bool, scale: float | None) -> Tensor:
    head = query.shape[-1]
    scale = 1 / math.sqrt(head) if scale is None else scale
    if missing := -head % ALIGNED_HEAD:
        query, key, value = (functional.pad(tensor, (0, missing)) for tensor in (query, key, value))
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout, is_causal, False, scale=scale
    )[0]
    return out[..., :head] if missing else out


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    if mask is not None:
        length = mask.shape[-1]
        if missing := -length % ALIGNED_MASK:
            mask = functional.pad(mask, (0, missing))[..., :length]
        mask = mask.expand(*query.shape[:-1], length)
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, trains, dropout, is_causal, scale=scale
    )[0]
    return out


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """CUDA keeps a mask of a byte an element, the processor the scaled noise in the input's own dtype."""
    if not training or not 0 < p < 1 or inplace or not input.numel():
        return functional.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]
