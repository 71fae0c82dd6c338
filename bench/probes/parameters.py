"""Parameters: trained, shipped and resident are three numbers, and the checkpoint is a real file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import CONTROL, MERGED, Missing, Reading
from bench.workload.subject import Stage, Subject

_count = partial(Figure, unit=Unit.PARAMETERS, better=Better.LOWER)
FIGURES = (
    _count("trained_parameters", "trained", meaning="Parameters that training changes.", scope=Scope.TRAINING),
    _count("shipped_parameters", "shipped", meaning="Parameters that the checkpoint holds.", scope=Scope.TRAINING),
    _count(
        "resident_parameters",
        "resident",
        meaning="Parameters that the method keeps in memory at inference; full fine-tuning's are the model's own.",
    ),
    Figure(
        "total_parameters",
        "total",
        Unit.PARAMETERS,
        Better.NEITHER,
        "Parameters of the base model and the method while training.",
    ),
    Figure(
        "checkpoint_bytes", "file", Unit.BYTES, Better.LOWER, "Size of the checkpoint's files on disk.", Scope.TRAINING
    ),
)
STAGES = frozenset(Stage)


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """Counts of this stage."""
    if subject.stage is Stage.BASE:
        yield Reading("total_parameters", subject.base_parameters, CONTROL)
        yield Reading("resident_parameters", 0, CONTROL)
        return
    assert subject.attached is not None
    if subject.stage is Stage.TRAINING:
        own = subject.attached.trained()
        added = sum(p.numel() for p in own.values()) if not _is_base(subject) else 0
        yield Reading("trained_parameters", sum(p.numel() for p in own.values()), subject.state)
        yield Reading("total_parameters", subject.base_parameters + added, subject.state)
        return
    if subject.state == MERGED:
        yield Reading("resident_parameters", 0, MERGED)
        yield Reading("total_parameters", subject.base_parameters, MERGED)
        return
    assert subject.checkpoint is not None
    yield Reading("shipped_parameters", sum(t.numel() for t in subject.attached.shipped().values()), subject.state)
    yield Reading("resident_parameters", sum(t.numel() for t in subject.attached.resident().values()), subject.state)
    size = sum(file.stat().st_size for file in subject.checkpoint.iterdir())
    yield Reading("checkpoint_bytes", size, subject.state)


def _is_base(subject: Subject) -> bool:
    """Whether what trains is the base itself, so that it must not be counted twice."""
    assert subject.attached is not None
    own = {id(parameter) for parameter in subject.attached.trained().values()}
    return own == {id(parameter) for parameter in subject.base.parameters()}
