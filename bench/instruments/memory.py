"""Peak bytes of live tensor storages during a training step, by category, on any device or on none.

Allocators round sizes up, cache what is freed and see neither meta nor fake tensors. Here a dispatch mode notices
every storage when an operation first returns or takes it, and a weak reference tells when it dies, so that the count is
exact, repeats exactly, and is the same under ``FakeTensorMode``. What a kernel allocates and frees inside itself
(workspaces) is below the dispatcher and not counted.
"""

# torch leaves its mode classes and tensor hooks unannotated:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from types import NoneType
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


class Category(StrEnum):
    """What a storage is for."""

    WEIGHTS = "weights"
    GRADIENTS = "gradients"
    OPTIMIZER_STATE = "optimizer_state"
    METHOD_STATE = "method_state"
    """What the method keeps from step to step beside its parameters."""
    OTHER = "other"
    """Activations, temporaries, inputs: whatever was not registered as one of the above."""


PLAIN = (int, float, str, torch.dtype, torch.device, NoneType)
BLOCK_BYTES = 512
"""What CUDA's caching allocator rounds every size up to a multiple of (``kMinBlockSize``)."""


@dataclass(frozen=True)
class MemoryPeak:
    """Bytes of live storages at the moment when their sum was largest (the first one, if reached more than once)."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_state_bytes: int
    other_bytes: int
    method_state_bytes: int = 0
    rounded_bytes: int = field(default=0, compare=False)
    """Sum at the same moment with each storage rounded up as CUDA's caching allocator does."""

    @property
    def total_bytes(self) -> int:
        """Sum of the categories, which is all that was alive."""
        kept = self.weights_bytes + self.gradients_bytes + self.optimizer_state_bytes + self.method_state_bytes
        return kept + self.other_bytes


@dataclass
class _Live:
    """A storage that is alive and known."""

    reference: weakref.ref[torch.UntypedStorage]
    serial: int
    size_bytes: int


class StorageTracker(TorchDispatchMode):
    """Follows each storage from its first appearance to its death while the mode is active.

    Storages that exist beforehand are made known by `register`. Others that an operation takes as input (a batch, an
    unregistered buffer) count from that operation on.
    """

    def __init__(self) -> None:
        super().__init__()
        # A Python storage object lives exactly as long as the C++ storage behind it, so its id is a safe key: the
        # callback of the weak reference removes the entry before the address can be used again.
        self._live: dict[int, _Live] = {}
        self._categories: list[Category] = []  # by serial number
        # (serial number, change in bytes). A log rather than running sums, because a category may be learnt late: a
        # gradient is an anonymous temporary until backward assigns it to `.grad`.
        self._log: list[tuple[int, int]] = []
        self._recording = True

    def register(self, tensors: Iterable[Tensor], category: Category) -> None:
        """Say what the storages of `tensors` are for; new ones count from now on.

        A storage keeps the first category that it is given: tied weights count once, weights stay weights.
        """
        for storage in storages(list(tensors)):
            serial = self._see(storage)
            if self._categories[serial] is Category.OTHER:
                self._categories[serial] = category

    def peak(self) -> MemoryPeak:
        """The largest sum of live bytes so far, split by the categories known by now."""
        total = largest = rounded = rounded_at_peak = 0
        by_category = dict.fromkeys(Category, 0)
        at_peak = by_category.copy()
        sizes = [0] * len(self._categories)
        for serial, change in self._log:
            total += change
            before = sizes[serial]
            sizes[serial] += change
            rounded += _rounded(sizes[serial]) - _rounded(before)
            by_category[self._categories[serial]] += change
            if total > largest:
                largest, rounded_at_peak, at_peak = total, rounded, by_category.copy()
        return MemoryPeak(
            weights_bytes=at_peak[Category.WEIGHTS],
            gradients_bytes=at_peak[Category.GRADIENTS],
            optimizer_state_bytes=at_peak[Category.OPTIMIZER_STATE],
            other_bytes=at_peak[Category.OTHER],
            method_state_bytes=at_peak[Category.METHOD_STATE],
            rounded_bytes=rounded_at_peak,
        )

    def __exit__(self, *exception: Any) -> None:
        # What is freed or registered after the step is no part of it.
        self._recording = False
        super().__exit__(*exception)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "prim":  # prim::device, asked of fake tensors more often than all else together
            return out
        # Arguments too: they may be new to us, and an operation may have resized them.
        for storage in storages((args, kwargs, out)):
            self._see(storage)
        return out

    def _see(self, storage: torch.UntypedStorage) -> int:
        """Log the storage's birth, or its change of size, if it is news; return its serial number."""
        known = self._live.get(id(storage))
        size_bytes = storage.nbytes()
        if known is None:
            serial = len(self._categories)
            self._categories.append(Category.OTHER)
            key = id(storage)
            reference = weakref.ref(storage, lambda _: self._forget(key))
            known = self._live[key] = _Live(reference, serial, 0)
        if self._recording and size_bytes != known.size_bytes:
            self._log.append((known.serial, size_bytes - known.size_bytes))
            known.size_bytes = size_bytes
        return known.serial

    def _forget(self, key: int) -> None:
        dead = self._live.pop(key)
        if self._recording:
            self._log.append((dead.serial, -dead.size_bytes))


def training_step_peak(
    step: Callable[[], object],
    weights: Iterable[Tensor],
    optimizer: torch.optim.Optimizer,
    method_state: Callable[[], Iterable[Tensor]] = tuple,
    host: bool = True,
) -> MemoryPeak:
    """Run `step` once (forward, backward, ``optimizer.step()``, ``zero_grad(set_to_none=True)``) and return its peak.

    Run an ordinary step before, so that the optimiser state exists from the start. `weights` are all resident tensors
    of the model: parameters, buffers, and what hangs on them as plain attributes, like the quantisation state of a
    bitsandbytes ``Params4bit``. `method_state` returns what the method keeps at that moment. `host` is whether the
    training is in the memory of the host, where torch saves states of random numbers.

    Under ``FakeTensorMode`` the peak is that of the same operations. transformers leaves the causal mask out when it
    can read that none is needed, which it cannot from fake data: a batch with ``use_cache=False`` or a mask of ones
    then counts a mask (and repeated key and value heads) that a real step would not have, unless
    `bench.instruments.fake.fake_tensors` answers for the data.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = [*weights, *trained]
    leaves = {id(tensor): tensor for tensor in weights if tensor.requires_grad and tensor.is_leaf}.values()
    tracker = StorageTracker()
    tracker.register(weights, Category.WEIGHTS)
    tracker.register((leaf.grad for leaf in leaves if leaf.grad is not None), Category.GRADIENTS)
    tracker.register(_state_tensors(optimizer), Category.OPTIMIZER_STATE)
    tracker.register(method_state(), Category.METHOD_STATE)

    def register_gradient(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.register([parameter.grad], Category.GRADIENTS)

    # Hooks, because `step` has dropped the gradients by the time it returns.
    hooks = [leaf.register_post_accumulate_grad_hook(register_gradient) for leaf in leaves]
    try:
        with tracker, _random_states(tracker) if host else nullcontext():
            step()
    finally:
        for hook in hooks:
            hook.remove()
    tracker.register(_state_tensors(optimizer), Category.OPTIMIZER_STATE)
    tracker.register(method_state(), Category.METHOD_STATE)
    return tracker.peak()


@contextmanager
def _random_states(tracker: StorageTracker) -> Iterator[None]:
    """Makes the states of the host's random numbers known that are taken inside.

    Gradient checkpointing saves one for each layer, by a function that is no operation.
    """
    functions: Any = torch
    take = torch.get_rng_state

    def seen() -> Tensor:
        state = take()
        tracker.register([state], Category.OTHER)
        return state

    functions.get_rng_state = seen
    try:
        yield
    finally:
        functions.get_rng_state = take


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    leaves = tree_leaves(list(optimizer.state.values()))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _sparse_parts(tensor: Tensor) -> list[Tensor]:
    """The dense tensors of which a sparse one is made."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def storages(values: object) -> Iterator[torch.UntypedStorage]:
    """Storages of all tensors in a nest of containers; a wrapper subclass stands for the tensors that it is made of."""
    for leaf in _tensors(values):
        if is_traceable_wrapper_subclass(leaf):
            names, _ = leaf.__tensor_flatten__()
            yield from storages([getattr(leaf, name) for name in names])
        elif leaf.layout is not torch.strided:
            yield from storages(_sparse_parts(leaf))
        else:
            yield leaf.untyped_storage()


def _tensors(values: object) -> Iterator[Tensor]:
    """All tensors in a nest of containers; those that operators take and give are looked into without torch's help,
    which takes several times as long."""
    if isinstance(values, Tensor):
        yield values
    elif type(values) in (tuple, list):
        for value in cast(Iterable[object], values):
            yield from _tensors(value)
    elif type(values) is dict:
        for value in values.values():
            yield from _tensors(value)
    elif not isinstance(values, PLAIN):
        yield from (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
