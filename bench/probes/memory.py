"""Training memory: peak bytes of live tensors over one whole step after the first, split by category at that peak."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.figures import Better, Figure, Scope, Unit
from bench.records import Missing, Reading
from bench.subject import Stage, Subject

_bytes = partial(Figure, unit=Unit.BYTES, better=Better.LOWER, scope=Scope.TRAINING)
FIGURES = (
    _bytes("train_peak_bytes", "train mem", meaning="Peak bytes of live tensors over a training step."),
    _bytes("train_weights_bytes", "weights", meaning="Of these: weights, trained or not."),
    _bytes("train_gradients_bytes", "gradients", meaning="Of these: gradients alive at the peak."),
    _bytes("train_optimizer_state_bytes", "optimizer", meaning="Of these: optimiser state."),
    _bytes("train_other_bytes", "activations", meaning="Of these: activations and all else."),
    _bytes("train_cuda_allocated_bytes", "cuda alloc", meaning="CUDA's own peak of allocated bytes.", steady=False),
    _bytes("train_cuda_reserved_bytes", "cuda reserved", meaning="CUDA's own peak of reserved bytes.", steady=False),
)
STAGES = frozenset({Stage.TRAINING})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """One tracked step, and on CUDA another for the allocator's own peaks."""
    assert subject.trainer is not None
    peak = subject.trainer.tracked_step()
    yield Reading("train_peak_bytes", peak.total_bytes, subject.state)
    yield Reading("train_weights_bytes", peak.weights_bytes, subject.state)
    yield Reading("train_gradients_bytes", peak.gradients_bytes, subject.state)
    yield Reading("train_optimizer_state_bytes", peak.optimizer_state_bytes, subject.state)
    yield Reading("train_other_bytes", peak.other_bytes, subject.state)
    cuda = ("train_cuda_allocated_bytes", "train_cuda_reserved_bytes")
    if subject.device.type == "cuda":
        for name, value in zip(cuda, subject.trainer.warmed_peak_bytes(), strict=True):
            yield Reading(name, value, subject.state)
    else:
        for name in cuda:
            yield Missing(name, subject.state, "not a CUDA device")
