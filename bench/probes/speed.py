"""Training speed: real tokens (no padding, no virtual ones) over synchronised step time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import TrainingSubject

METRICS = (
    Metric(
        "train_tokens_per_second",
        "train tok/s",
        Unit.TOKENS_PER_SECOND,
        Better.HIGHER,
        "Real tokens over the median step's seconds.",
        Scope.TRAINING,
    ),
    Metric("train_step_seconds", "step", Unit.SECONDS, Better.LOWER, "Median seconds of a step.", Scope.TRAINING),
)


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """The rest of the training budget, timed step by step."""
    seconds = statistics.median(subject.trainer.timed_steps())
    yield Measurement("train_step_seconds", seconds, subject.state)
    yield Measurement("train_tokens_per_second", subject.trainer.tokens_per_step / seconds, subject.state)
