"""Parameters: trained, shipped and resident are three numbers, and the checkpoint is a real file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import MERGED, Measurement, Missing
from bench.workload.subject import BaseSubject, ServedSubject, TrainingSubject, parameter_count

_count = partial(Metric, unit=Unit.PARAMETERS, better=Better.LOWER)
METRICS = (
    _count("trained_parameters", "trained", meaning="Parameters that training changes.", scope=Scope.TRAINING),
    _count("shipped_parameters", "shipped", meaning="Parameters that the checkpoint holds.", scope=Scope.TRAINING),
    _count(
        "resident_parameters",
        "resident",
        meaning="Parameters that the method keeps in memory at inference; full fine-tuning's are the model's own.",
    ),
    Metric(
        "total_parameters",
        "total",
        Unit.PARAMETERS,
        Better.NEITHER,
        "Parameters of the base model and the method while training.",
    ),
    Metric(
        "checkpoint_bytes", "file", Unit.BYTES, Better.LOWER, "Size of the checkpoint's files on disk.", Scope.TRAINING
    ),
)
NEEDS_DATA = False


def measure_base(subject: BaseSubject) -> Iterator[Measurement | Missing]:
    """The base's own."""
    from bench.workload.quantized import base_parameter_count

    yield Measurement("total_parameters", base_parameter_count(subject.base), subject.state)
    yield Measurement("resident_parameters", 0, subject.state)


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """What trains, and all there is meanwhile."""
    attached = subject.attached
    trained = [*attached.trained().values()]
    yield Measurement("trained_parameters", parameter_count(trained), subject.state)
    # what trains may be the base's own, or stand beside the model
    yield _total(subject, parameter_count([*attached.model.parameters(), *trained]))


def measure_served(subject: ServedSubject) -> Iterator[Measurement | Missing]:
    """What is shipped and what stays in memory; once the method is merged, what the model has more than the base."""
    if subject.state == MERGED:
        total = _total(subject, parameter_count(subject.model.parameters()))
        yield total
        if isinstance(total, Measurement):
            yield Measurement("resident_parameters", total.value - subject.base_parameters, subject.state)
        else:
            yield Missing("resident_parameters", subject.state, total.reason)
        return
    attached = subject.attached
    yield Measurement("shipped_parameters", sum(t.numel() for t in attached.shipped().values()), subject.state)
    yield Measurement("resident_parameters", sum(t.numel() for t in attached.resident().values()), subject.state)
    if subject.checkpoint_bytes is None:
        yield Missing("checkpoint_bytes", subject.state, "another package writes the files")
    else:
        yield Measurement("checkpoint_bytes", subject.checkpoint_bytes, subject.state)


def _total(subject: TrainingSubject | ServedSubject, count: int) -> Measurement | Missing:
    """``count``, unless parameters of the base are packed so that a count of them says nothing."""
    from bench.workload.quantized import unknown_packing

    if (kind := unknown_packing(subject.attached.base)) is not None:
        return Missing("total_parameters", subject.state, f"parameters that are packed by {kind} can't be counted")
    return Measurement("total_parameters", count, subject.state)
