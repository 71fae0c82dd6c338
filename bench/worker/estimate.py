"""The estimate of a cell: the harness's own training step and its own probes, on tensors without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from bench.config.schema import DeviceType
from bench.estimate.estimate import RESERVE_BYTES, EstimateResults, Fit, Request
from bench.instruments.fake import CudaKernels, fake_tensors
from bench.instruments.memory import MemoryPeak
from bench.instruments.structure import Structure, StructureCounter
from bench.probes.registry import measure, metrics, probes
from bench.records.record import UNMERGED, Measurement, Missing
from bench.worker.capacity import largest
from bench.worker.setup import Report
from bench.workload.corpus import Corpus
from bench.workload.models import meta_model
from bench.workload.plan import Plan, read_plan
from bench.workload.quantized import base_parameter_count
from bench.workload.subject import BaseSubject, ServedSubject, Subject, TrainingSubject
from bench.workload.training import Trainer, attach_to_train
from methods import Attached, Unsupported
from methods.architectures import sizes_of

STAND_IN = "cpu"
"""The device of fake tensors, whatever device they represent; see `bench.instruments.fake`."""
SHORTEST = 2
"""Tokens of the shortest sequence in which one can be predicted."""
UNREADABLE = (DataDependentOutputException, DynamicOutputShapeException)
"""What torch raises if something reads the values of tensors that have none."""


class EstimateTrainer(Trainer):
    """The trainer on batches without data. The first step also counts what it computes."""

    def __init__(self, plan: Plan, attached: Attached) -> None:
        work = plan.workload
        super().__init__(plan, attached, _tokens(work.train_steps * work.train_batch_size, work.train_length))
        # torch would choose this by the device of the parameters
        for group in self.optimizer.param_groups:
            group["foreach"] = plan.device.type is DeviceType.cuda
        self._structure: Structure | None = None
        self._peaks: dict[tuple[int, ...], MemoryPeak] = {}

    def warm_up(self) -> None:
        if not self.losses:
            with StructureCounter() as counter:
                loss = self._backward()
            self._update(loss)
            self._structure = counter.result()

    def structure(self) -> Structure:
        self.warm_up()
        assert self._structure is not None
        return self._structure

    def tracked_step(self) -> MemoryPeak:
        shape = tuple(self.batches[0].shape)
        if shape not in self._peaks:
            self._peaks[shape] = super().tracked_step()
        return self._peaks[shape]

    def needed_bytes(self, batch: int, length: int) -> int:
        """Rounded peak of a step after the first on another batch."""
        if (batch, length) not in self._peaks:
            del self.losses[1:]
            self.batches = _tokens(self.plan.workload.train_steps * batch, length).split(batch)
            self.tracked_step()
        return self._peaks[batch, length].rounded_bytes

    def _number(self, loss: Tensor) -> float:
        return 0.0


def estimate_cell(config: Mapping[str, Any], request: Request, report: Report) -> EstimateResults:
    """Estimates what is requested of one cell.

    Raises:
        Unsupported: the method can't be attached or trained without data.
    """
    plan = read_plan(config)
    found = EstimateResults()
    with fake_tensors(plan.device.type is DeviceType.cuda):
        report("building")
        base = meta_model(plan.model, STAND_IN)
        parameters = base_parameter_count(base)
        most = sizes_of(base).max_positions
        corpus = _corpus(plan)
        if request.control:
            _probe(BaseSubject(plan, base, corpus), found)
        try:
            # torch's backward pass disables function modes
            recomputing = CudaKernels if plan.device.type is DeviceType.cuda else nullcontext
            attached = attach_to_train(plan, plan.method, base, recomputing)
            attached.model.train()
            report("training")
            trainer = EstimateTrainer(plan, attached)
            _probe(TrainingSubject(plan, attached, trainer, parameters), found)
            found.fits = _fits(request, trainer, None if most is None else most - plan.method.virtual_tokens)
        except UNREADABLE as error:
            raise Unsupported(_needs_data(error)) from error
        if request.serving:
            report("serving")
            _serve(plan, attached, corpus, parameters, found)
    return found


def _fits(request: Request, trainer: EstimateTrainer, most: int | None) -> list[Fit]:
    """Which cards the step fits. ``most``: the largest number of tokens in a sequence, None without a limit."""
    work = trainer.plan.workload
    batch, length = work.train_batch_size, work.train_length
    found = []
    for card in request.cards:
        limit = card - RESERVE_BYTES
        fit = Fit(card, trainer.needed_bytes(batch, length) <= limit)
        if request.largest:
            fit = dataclasses.replace(
                fit,
                largest_batch=largest(lambda batch: trainer.needed_bytes(batch, length), limit),
                longest=largest(lambda length: trainer.needed_bytes(1, length), limit, SHORTEST, most),
            )
        found.append(fit)
    return found


def _serve(plan: Plan, attached: Attached, corpus: Corpus, parameters: int, found: EstimateResults) -> None:
    try:
        attached.prepare_for_inference()
        attached.model.eval()
        size = attached.checkpoint_bytes()
        _probe(ServedSubject(plan, attached, UNMERGED, corpus, parameters, checkpoint_bytes=size), found)
    except UNREADABLE as error:
        found.results.missing.append(Missing(None, UNMERGED, f"at inference, {_needs_data(error)}"))


def _probe(subject: Subject, found: EstimateResults) -> None:
    """Runs the probes that read shapes alone. What only a card can measure is left out."""
    for probe in probes():
        if not getattr(probe, "NEEDS_DATA", True):
            for one in measure(probe, subject):
                if isinstance(one, Measurement) or (one.metric is not None and metrics()[one.metric].deterministic):
                    found.results.add(one)


def _corpus(plan: Plan) -> Corpus:
    """Text without words."""
    held_out = _tokens(plan.workload.held_out_sequences, plan.workload.train_length)
    return Corpus(train=held_out, held_out=held_out, held_out_bytes=0, fingerprint="", description={})


def _tokens(sequences: int, length: int) -> Tensor:
    """Token ids [sequences, length]."""
    return torch.zeros(sequences, length, dtype=torch.int64)


def _needs_data(error: Exception) -> str:
    return f"the method reads the values of tensors ({error}), and an estimate has none"
