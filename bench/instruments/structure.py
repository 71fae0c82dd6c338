"""Shape of a computation: operations, matrix products, longest dependent chains, FLOPs. No clock, so no noise.

Each storage carries the depth at which it was last written; an operation is one deeper than the deepest storage that
it takes. Storages rather than tensors, because views share data: a write through one view must be seen through another.
Two disjoint parts of one storage thereby look dependent, so a chain can only be over-estimated by that.

``scaled_dot_product_attention`` is one operation and one matrix product here whichever backend runs. It is a composite:
below it, flash, memory-efficient and cuDNN attention are single ATen operations with different helpers around them
(padding, mask conversion), while the math backend is two products, a softmax and more. Which one runs depends on
device, dtype, mask, head size and autograd, and the metric must not. A dispatch mode sees only what is below; hence a
function mode, which sees the call itself, hides what is inside. Attention written out by hand ("eager") keeps its two
products.

The backward of fused attention counts as twice its forward: four products for two, a recomputed score not counted.
"""

# torch leaves its mode classes and tensor hooks unannotated:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.instruments.memory import storages


@dataclass(frozen=True)
class Structure:
    """What was computed; all metrics are counts."""

    operations: int
    """Operations that compute: views, metadata changes, uninitialised allocations and reads into Python are not."""
    matmuls: int
    """Matrix products, fused attention being one."""
    critical_path: int
    """Operations on the longest path of dependent ones, whether or not its result is used."""
    critical_path_matmuls: int
    """Matrix products on the path that has most of them."""
    flops: int
    """Floating-point operations of matrix products and convolutions; a multiply-add is two, causality is ignored."""


@dataclass(frozen=True)
class _Depth:
    operations: int = 0
    matmuls: int = 0


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Query [..., T, d], key [..., S, d], value [..., S, v]: T·S·d for scores and T·S·v for the mix, per query head."""
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _packed_flops(x: Tensor, _packed: Tensor, shape: list[int], *_: Any, **__: Any) -> int:
    """x [..., in] times a 4-bit weight of logical `shape` [out, in]; dequantising is not a product."""
    return 2 * x.numel() * shape[0]


def _vector_flops(matrix: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


# Matrix products by qualified name (bitsandbytes may not be installed). None: the formula is in torch's own registry.
_PRODUCTS: dict[str, Callable[..., int] | None] = {
    "aten::mm": None,
    "aten::addmm": None,
    "aten::bmm": None,
    "aten::baddbmm": None,
    "aten::_scaled_mm": None,
    "aten::mv": _vector_flops,
    "aten::addmv": lambda _, matrix, *__, **___: _vector_flops(matrix),
    "aten::dot": _vector_flops,
    "bitsandbytes::gemm_4bit": _packed_flops,
    "bitsandbytes::gemv_4bit": _packed_flops,
    "bitsandbytes::int8_linear_matmul": lambda a, b, *_: 2 * a.numel() * b.shape[0],
    "bitsandbytes::int8_scaled_mm": lambda a, b, *_: 2 * a.numel() * b.shape[0],
    "bitsandbytes::int8_mixed_scaled_mm": lambda a, _, b, *__: 2 * a.numel() * b.shape[0],
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (
        lambda _, query, key, value, *__, **___: 2 * _attention_flops(query, key, value)
    ),
    # Only for calls that bypass the Python function, hence the function mode.
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
    "aten::_scaled_dot_product_flash_attention": None,
    "aten::_scaled_dot_product_efficient_attention": None,
    "aten::_scaled_dot_product_cudnn_attention": None,
}


class StructureCounter(TorchDispatchMode):
    """Counts what runs while the mode is active; the data that exists when it is entered has depth 0."""

    def __init__(self) -> None:
        super().__init__()
        # Weak keys: a storage's Python object lives and dies with the C++ storage and hashes by identity, so that an
        # address used again is a new key, and counting keeps no activation alive.
        self._depths: weakref.WeakKeyDictionary[torch.UntypedStorage, _Depth] = weakref.WeakKeyDictionary()
        self._attention = _AttentionMode(self)
        self._operations = self._matmuls = self._flops = 0
        self._critical_path = self._critical_path_matmuls = 0
        self.hidden = False
        """True inside an operation that is counted as a whole."""

    def result(self) -> Structure:
        """The counts so far."""
        return Structure(self._operations, self._matmuls, self._critical_path, self._critical_path_matmuls, self._flops)

    def __enter__(self) -> Self:
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._attention.__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.hidden or func.namespace == "prim":  # prim::device, asked of fake tensors, computes nothing
            return func(*args, **kwargs)
        # Without autograd's keys (inference_mode) composite operations arrive whole: take them apart, as no_grad would.
        # Only this mode is put back on its stack: the function mode is still on its own.
        super().__enter__()
        try:
            parts = func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        written = list(storages(_written_arguments(func, args, kwargs)))
        operations = int(_computes(func, (args, kwargs), out, bool(written)))
        name = func._schema.name
        matmuls = int(name in _PRODUCTS)
        formula = _PRODUCTS.get(name)
        if formula is not None:
            self._flops += formula(*args, **kwargs)
        elif func.overloadpacket in flop_registry:
            self._flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        self._record((args, kwargs), [*storages(out), *written], operations, matmuls)
        return out

    def record_attention(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        """Count one ``scaled_dot_product_attention(query, key, value, ...)``."""
        self._flops += _attention_flops(*args, **kwargs)
        self._record((args, kwargs), list(storages(out)), 1, 1)

    def _record(self, inputs: object, changed: list[torch.UntypedStorage], operations: int, matmuls: int) -> None:
        depths = [self._depths.get(storage, _Depth()) for storage in storages(inputs)]
        depth = _Depth(
            operations + max((d.operations for d in depths), default=0),
            matmuls + max((d.matmuls for d in depths), default=0),
        )
        for storage in changed:
            self._depths[storage] = depth
        self._operations += operations
        self._matmuls += matmuls
        self._critical_path = max(self._critical_path, depth.operations)
        self._critical_path_matmuls = max(self._critical_path_matmuls, depth.matmuls)


class _AttentionMode(TorchFunctionMode):
    """Hands each call of ``scaled_dot_product_attention`` to the counter as one operation."""

    def __init__(self, counter: StructureCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self._counter.hidden = True
        try:
            out = func(*args, **kwargs)
        finally:
            self._counter.hidden = False
        self._counter.record_attention(args, kwargs, out)
        return out


def _computes(func: Any, inputs: object, out: object, writes: bool) -> bool:
    name = func._schema.name
    if func.is_view or torch.Tag.inplace_view in func.tags or name.startswith(("aten::empty", "aten::new_empty")):
        return False
    # Some views have no alias in their schema (`_unsafe_view`). An operation without any tensor result (`item`) is a
    # read into Python, on which no tensor can depend.
    known = set(storages(inputs))
    return writes or any(storage not in known for storage in storages(out))


def _written_arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments that the schema marks as written: in-place, ``out=``, and operations that return nothing."""
    return [
        args[index] if index < len(args) else kwargs.get(argument.name)
        for index, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
