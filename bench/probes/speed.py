"""Training speed: real tokens (no padding, no virtual ones) over synchronized step time.

The ratio to the training reference is of steps that were timed in turn with the reference's, in several processes
(`bench.worker.training`). Tables derive it from the raw samples; here the steps of the training budget are timed, once.
"""

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
    Metric(
        "train_ratio",
        "train tok/s",
        Unit.RATIO,
        Better.HIGHER,
        "Tokens per second over those of the training reference, timed in turn.",
        Scope.TRAINING,
    ),
    Metric(
        "train_ratio_low", "train low", Unit.RATIO, Better.NEITHER, "Lower end of its 95% interval.", Scope.TRAINING
    ),
    Metric(
        "train_ratio_high", "train high", Unit.RATIO, Better.NEITHER, "Upper end of its 95% interval.", Scope.TRAINING
    ),
    Metric(
        "train_reference_tokens_per_second",
        "reference tok/s",
        Unit.TOKENS_PER_SECOND,
        Better.NEITHER,
        "Tokens per second of the training reference beside it.",
        Scope.TRAINING,
    ),
    Metric("train_step_seconds", "step", Unit.SECONDS, Better.LOWER, "Median seconds of a step.", Scope.TRAINING),
)


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """The rest of the training budget, timed step by step."""
    if subject.plan.reference is not None:
        yield Missing("train_ratio", subject.state, "timed in turn with the cell's own reference")
    elif subject.plan.train_reference is None:
        yield _without_reference(subject)
    seconds = statistics.median(subject.trainer.timed_steps())
    yield Measurement("train_step_seconds", seconds, subject.state)
    yield Measurement("train_tokens_per_second", subject.trainer.tokens_per_step / seconds, subject.state)


def _without_reference(subject: TrainingSubject) -> Measurement | Missing:
    """1 of the training reference itself; of others, why they are not compared with it."""
    if subject.plan.workload.train_reference is None:
        return Missing("train_ratio", subject.state, "workload.train_reference names no method")
    if subject.plan.precision.train_pairs == 0:
        return Missing("train_ratio", subject.state, "training is not timed in turn: precision.train_pairs is 0")
    return Measurement("train_ratio", 1.0, subject.state)
