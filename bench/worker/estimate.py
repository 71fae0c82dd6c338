"""A cell's figures from its configuration alone: the harness's own step, on tensors without data. Runs in a child."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from transformers import PreTrainedModel

from bench.config.schema import DeviceType
from bench.estimate.estimate import RESERVE_BYTES, Fit, Prediction, Request
from bench.instruments.fake import CudaKernels, fake_tensors
from bench.instruments.steps import Decode
from bench.instruments.structure import Structure, StructureCounter
from bench.probes.structure import MEANINGS
from bench.records.record import CONTROL, UNMERGED, Missing, Reading
from bench.worker.capacity import largest
from bench.worker.setup import Report
from bench.workload.models import skeleton
from bench.workload.plan import Plan, read_plan
from bench.workload.training import Trainer
from methods import Attached, Unsupported
from methods.architectures import sizes_of

STAND_IN = "cpu"
"""The device of fake tensors, whatever the one that they stand for; see `bench.instruments.fake`."""
SHORTEST = 2
"""Tokens of a sequence of which one can be predicted."""


class ForecastTrainer(Trainer):
    """The trainer on batches without data, whose loss nobody can read."""

    def __init__(self, plan: Plan, attached: Attached) -> None:
        work = plan.workload
        super().__init__(plan, attached, _tokens(work.train_steps * work.train_batch_size, work.train_length))
        # what torch would choose by looking at the parameters' device
        for group in self.optimizer.param_groups:
            group["foreach"] = plan.device.type is DeviceType.cuda
        self.needed: dict[tuple[int, int], int] = {}

    def first_step(self) -> Structure:
        """The first step, which makes the optimiser's state; the structure of its forward and backward pass."""
        with StructureCounter() as counter:
            loss = self._backward()
        self._update(loss)
        return counter.result()

    def needed_bytes(self, batch: int, length: int) -> int:
        """Rounded peak of a second step on another batch, as `tracked_step` is one, asked for again and again."""
        if (batch, length) not in self.needed:
            del self.losses[1:]
            self.batches = _tokens(self.plan.workload.train_steps * batch, length).split(batch)
            self.needed[batch, length] = self.tracked_step().rounded_bytes
        return self.needed[batch, length]

    def again(self) -> AbstractContextManager[Any]:
        # torch's backward pass takes function modes off
        return CudaKernels() if self.plan.device.type is DeviceType.cuda else nullcontext()

    def _number(self, loss: Tensor) -> float:
        return 0.0


def forecast(config: Mapping[str, Any], request: Request, report: Report) -> Prediction:
    """Everything that is asked for of one cell.

    Raises:
        Unsupported: the method can't be attached or trained without data.
    """
    plan = read_plan(config)
    found = Prediction()
    with fake_tensors(plan.device.type is DeviceType.cuda):
        report("building")
        model = skeleton(plan.model, STAND_IN)
        base = _Base(sum(p.numel() for p in model.parameters()), sizes_of(model).max_positions)
        if request.control:
            found.readings += _at_inference(model, CONTROL, plan)
        try:
            attached = plan.method.attach(model)
            attached.model.train()
            report("training")
            _train(plan, attached, base, request, found)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise Unsupported(_needs_data(error)) from error
        if request.serving:
            report("serving")
            _serve(plan, attached, found)
    return found


@dataclass(frozen=True)
class _Base:
    parameters: int
    max_positions: int | None


def _train(plan: Plan, attached: Attached, base: _Base, request: Request, found: Prediction) -> None:
    own = attached.trained()
    trained = sum(parameter.numel() for parameter in own.values())
    is_base = {id(p) for p in own.values()} == {id(p) for p in attached.base.parameters()}
    trainer = ForecastTrainer(plan, attached)
    flops = trainer.first_step().flops
    peak = trainer.tracked_step()
    values = {
        "trained_parameters": trained,
        "total_parameters": base.parameters + (0 if is_base else trained),
        "train_peak_bytes": peak.total_bytes,
        "train_weights_bytes": peak.weights_bytes,
        "train_gradients_bytes": peak.gradients_bytes,
        "train_optimizer_state_bytes": peak.optimizer_state_bytes,
        "train_other_bytes": peak.other_bytes,
        "train_rounded_bytes": peak.rounded_bytes,
        "train_flops": flops,
    }
    found.readings += [Reading(name, value, UNMERGED) for name, value in values.items()]
    found.fits = [Fit(card, peak.rounded_bytes <= card - RESERVE_BYTES) for card in request.cards]
    if request.largest:
        room = None if base.max_positions is None else base.max_positions - plan.method.virtual_tokens
        found.fits = [_grown(fit, trainer, room) for fit in found.fits]


def _grown(fit: Fit, trainer: ForecastTrainer, room: int | None) -> Fit:
    """How far the step could grow on the card; `room` is the largest number of tokens in a sequence, None for any."""
    limit = fit.card_bytes - RESERVE_BYTES
    length = trainer.plan.workload.train_length
    batch = largest(lambda batch: trainer.needed_bytes(batch, length), limit)
    longest = largest(lambda length: trainer.needed_bytes(1, length), limit, SHORTEST, room)
    return dataclasses.replace(fit, largest_batch=batch, longest=longest)


def _serve(plan: Plan, attached: Attached, found: Prediction) -> None:
    try:
        attached.prepare_for_inference()
        shipped = attached.shipped().values()
        found.readings += [
            Reading("shipped_parameters", sum(t.numel() for t in shipped), UNMERGED),
            Reading("shipped_bytes", sum(t.nbytes for t in shipped), UNMERGED),
            Reading("resident_parameters", sum(t.numel() for t in attached.resident().values()), UNMERGED),
        ]
        if (size := attached.checkpoint_bytes()) is None:
            found.missing.append(Missing("checkpoint_bytes", UNMERGED, "another package writes the files"))
        else:
            found.readings.append(Reading("checkpoint_bytes", size, UNMERGED))
        found.readings += _at_inference(attached.model.eval(), UNMERGED, plan)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        found.missing.append(Missing("*", UNMERGED, f"at inference, {_needs_data(error)}"))


def _at_inference(model: PreTrainedModel, state: str, plan: Plan) -> Iterator[Reading]:
    """Structure of both phases and the cache between them, at every workload point."""
    with torch.no_grad():
        for batch, length in plan.points():
            prompt = _tokens(batch, length)
            with StructureCounter() as counter:
                steps = Decode(model, prompt)  # a prefill is what fills the cache
            prefill = counter.result()
            layers: list[Any] = steps.cache.layers
            held = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
            yield Reading("cache_length", int(steps.cache.get_seq_length()), state, batch, length)
            yield Reading("cache_bytes", sum(tensor.nbytes for tensor in held) // batch, state, batch, length)
            with StructureCounter() as counter:
                steps.run(1)
            for phase, structure in (("prefill", prefill), ("decode", counter.result())):
                for name in MEANINGS:
                    yield Reading(f"{phase}_{name}", getattr(structure, name), state, batch, length)


def _tokens(sequences: int, length: int) -> Tensor:
    """Token ids [sequences, length]."""
    return torch.zeros(sequences, length, dtype=torch.int64)


def _needs_data(error: Exception) -> str:
    return f"the method reads the values of tensors ({error}), and a forecast has none"
