"""Training speed: real tokens (no padding, no virtual ones) over synchronised step time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject

FIGURES = (
    Figure(
        "train_tokens_per_second",
        "train tok/s",
        Unit.TOKENS_PER_SECOND,
        Better.HIGHER,
        "Real tokens over the median step's seconds.",
        Scope.TRAINING,
    ),
    Figure("train_step_seconds", "step", Unit.SECONDS, Better.LOWER, "Median seconds of a step.", Scope.TRAINING),
)
STAGES = frozenset({Stage.TRAINING})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """The rest of the training budget, timed step by step."""
    assert subject.trainer is not None
    seconds = statistics.median(subject.trainer.timed_steps())
    yield Reading("train_step_seconds", seconds, subject.state)
    yield Reading("train_tokens_per_second", subject.trainer.tokens_per_step / seconds, subject.state)
