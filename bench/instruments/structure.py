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

What a product is, and what it costs, is `bench.instruments.products`. The metrics of products are None as soon as an
operator runs of which nothing is known there, and the operator is named: a count without it would be too small.
"""

# torch leaves its mode classes and tensor hooks unannotated:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bench.instruments.memory import storages
from bench.instruments.products import WHOLE, formula_of, is_free_of_products


@dataclass(frozen=True)
class Structure:
    """What was computed; all metrics are counts. Those of products are None if an operator may be one or may not."""

    operations: int
    """Operations that compute: views, metadata changes, uninitialised allocations and reads into Python are not."""
    matmuls: int | None
    """Products, fused attention being one."""
    critical_path: int
    """Operations on the longest path of dependent ones, whether or not its result is used."""
    critical_path_matmuls: int | None
    """Products on the path that has most of them."""
    flops: int | None
    """Floating-point operations of the products; a multiply-add is two, causality is ignored."""
    unknown: tuple[str, ...] = ()
    """Operators that ran and may be products, by name."""

    @property
    def counts(self) -> dict[str, int | None]:
        """The metrics by name."""
        return {name: value for name, value in vars(self).items() if name != "unknown"}

    @property
    def reason(self) -> str:
        """Why metrics are None."""
        return f"it is not known what these operators compute: {', '.join(self.unknown)}"


@dataclass(frozen=True)
class _Depth:
    operations: int = 0
    matmuls: int = 0


class StructureCounter(TorchDispatchMode):
    """Counts what runs while the mode is active; the data that exists when it is entered has depth 0."""

    def __init__(self) -> None:
        super().__init__()
        # Weak keys: a storage's Python object lives and dies with the C++ storage and hashes by identity, so that an
        # address used again is a new key, and counting keeps no activation alive.
        self._depths: weakref.WeakKeyDictionary[torch.UntypedStorage, _Depth] = weakref.WeakKeyDictionary()
        self._whole = _WholeMode(self)
        self._operations = self._matmuls = self._flops = 0
        self._critical_path = self._critical_path_matmuls = 0
        self._unknown: set[str] = set()
        self.hidden = False
        """True inside an operation that is counted as a whole."""

    def result(self) -> Structure:
        """The counts so far."""
        if self._unknown:
            return Structure(self._operations, None, self._critical_path, None, None, tuple(sorted(self._unknown)))
        return Structure(self._operations, self._matmuls, self._critical_path, self._critical_path_matmuls, self._flops)

    def __enter__(self) -> Self:
        self._whole.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._whole.__exit__(*exception)

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
        computes = _computes(func, (args, kwargs), out, bool(written))
        formula = formula_of(func)
        if formula is not None:
            self._flops += formula(out, *args, **kwargs)
        elif computes and not is_free_of_products(func):
            self._unknown.add(func._schema.name)
        self._record((args, kwargs), [*storages(out), *written], int(computes), int(formula is not None))
        return out

    def record_whole(self, flops: int, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        """Count one call of a function as one operation and one product."""
        self._flops += flops
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


class _WholeMode(TorchFunctionMode):
    """Hands each call of a function that is one product to the counter."""

    def __init__(self, counter: StructureCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (formula := WHOLE.get(func)) is None:
            return func(*args, **kwargs)
        self._counter.hidden = True
        try:
            out = func(*args, **kwargs)
        finally:
            self._counter.hidden = False
        self._counter.record_whole(formula(out, *args, **kwargs), args, kwargs, out)
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
