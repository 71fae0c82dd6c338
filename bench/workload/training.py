"""The training budget: the same number of steps for every method, timed or tracked by probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from bench.config.schema import DeviceType
from bench.instruments.allocator import Allocator, AllocatorPeak
from bench.instruments.memory import MemoryPeak, training_step_peak
from bench.instruments.structure import Structure, StructureCounter
from bench.instruments.timing import clock_for
from bench.workload.plan import Plan
from methods import Attached, Method
from methods.compat import recompute_activations


class Diverged(RuntimeError):
    """The training loss is no longer a number."""


def attach_to_train(
    plan: Plan,
    method: Method,
    base: PreTrainedModel,
    recomputing: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Attached:
    """Attaches a method that is to train.

    Recomputation is switched on first, because some methods can't train with it and look for it as they attach.

    ``recomputing``: the context in which layers recompute their activations for the backward pass.

    Raises:
        MethodError: see `methods.base.Method.attach`.
    """
    if plan.workload.gradient_checkpointing:
        recompute_activations(base, recomputing)
    return method.attach(base)


class Trainer:
    """AdamW over the method's own parameters, on prepared batches; one call a step.

    Probes may ask for tracked and timed steps in any order. The first step, which creates the optimizer's state, is
    neither tracked nor timed. `finish` runs the steps that the probes left of the budget.
    """

    def __init__(self, plan: Plan, attached: Attached, sequences: Tensor, learning_rate: float | None = None) -> None:
        """``sequences``: int64 [steps x batch, T], already on the device. ``learning_rate``: None for the plan's."""
        self.plan = plan
        self.attached = attached
        self.parameters = list(attached.trained().values())
        self.learning_rate = plan.learning_rate if learning_rate is None else learning_rate
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.learning_rate, weight_decay=0.0)
        self.batches = sequences.split(plan.workload.train_batch_size)
        self.clock = clock_for(plan.torch_device)
        self.losses: list[float] = []
        self.timed_seconds: list[float] = []

    @property
    def tokens_per_step(self) -> int:
        """Real tokens: no padding, no virtual ones."""
        return self.plan.workload.train_batch_size * self.plan.workload.train_length

    def tracked_step(self) -> MemoryPeak:
        """Peak bytes of live tensors over one whole step."""
        self.warm_up()
        weights = [*weight_tensors(self.attached.model), *self.parameters]
        on_host = self.plan.device.type is DeviceType.cpu
        return training_step_peak(self.step, weights, self.optimizer, self.attached.training_state, on_host)

    def timed_steps(self) -> list[float]:
        """Seconds of each of the steps that are left, at least one."""
        self.warm_up()
        while not self.timed_seconds or len(self.losses) < self.plan.workload.train_steps:
            self.timed_seconds.append(self.clock(self.step))
        return self.timed_seconds

    def phase_peaks(self, allocator: Allocator) -> dict[str, AllocatorPeak]:
        """The allocator's peaks in each phase of one step: ``forward``, ``backward``, ``optimizer``."""
        self.warm_up()
        peaks: dict[str, AllocatorPeak] = {}

        def passed(phase: str) -> None:
            peaks[phase] = allocator.peak()
            allocator.reset()

        allocator.reset()
        self.step(passed)
        return peaks

    def structure(self) -> Structure:
        """What one forward and backward pass computes; it changes no weight and is no step."""
        with StructureCounter() as counter:
            self._backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.result()

    def finish(self) -> None:
        """Runs what is left of the budget."""
        while len(self.losses) < self.plan.workload.train_steps:
            self.step()

    def warm_up(self) -> None:
        """Runs the first step, unless it has run."""
        if not self.losses:
            self.step()

    def step(self, passed: Callable[[str], object] = str) -> None:
        """Forward, backward, optimizer, and what the method does after it. ``passed`` is told when each has ended.

        Raises:
            Diverged: the loss is not finite.
        """
        self._update(self._backward(passed))
        passed("optimizer")

    def _update(self, loss: Tensor) -> None:
        """The part of a step that follows its backward pass."""
        self.optimizer.step()
        self.losses.append(self._number(loss))
        if not math.isfinite(self.losses[-1]):
            raise Diverged(
                f"the training loss became {self.losses[-1]} at step {len(self.losses)}: "
                f"lower the learning rate ({self.learning_rate}) of {self.attached.method.title} or use a wider dtype"
            )
        self.attached.after_step(len(self.losses))
        self.optimizer.zero_grad(set_to_none=True)

    def _number(self, loss: Tensor) -> float:
        return float(loss.detach())

    def _backward(self, passed: Callable[[str], object] = str) -> Tensor:
        """Forward and backward on the batch that is next; returns the loss []."""
        ids = self.batches[len(self.losses) % len(self.batches)]
        # a training step needs no cache, and some models would build one by default
        loss: Tensor = self.attached.model(input_ids=ids, labels=ids, use_cache=False).loss
        penalty = self.attached.regularization_loss()
        passed("forward")
        (loss if penalty is None else loss + penalty).backward()
        passed("backward")
        return loss


def weight_tensors(model: PreTrainedModel) -> Iterator[Tensor]:
    """All tensors of a model, each once: whatever its modules hold, and the constants of quantized weights."""
    held = [leaf for module in model.modules() for leaf in tree_leaves(vars(module)) if isinstance(leaf, Tensor)]
    for tensor in {id(tensor): tensor for tensor in held}.values():
        yield tensor
        state = getattr(tensor, "quant_state", None)  # bitsandbytes hangs them on the parameter
        while state is not None:
            yield from (value for value in vars(state).values() if isinstance(value, Tensor))
            state = getattr(state, "state2", None)
