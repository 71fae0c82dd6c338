"""Whether the outputs change: by attaching the untrained method, by saving and loading it, and by merging it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import MERGED, Measurement, Missing
from bench.workload.subject import ServedSubject, TrainingSubject

METRICS = (
    Metric(
        "attach_error",
        "start error",
        Unit.FRACTION,
        Better.NEITHER,
        "Largest difference of a logit with the untrained method attached, over the base's largest logit.",
        Scope.TRAINING,
    ),
    Metric(
        "reload_error",
        "reload error",
        Unit.FRACTION,
        Better.LOWER,
        "Largest difference of a logit once the checkpoint is loaded into a new base, over the largest logit before.",
    ),
    Metric(
        "merge_error",
        "merge error",
        Unit.FRACTION,
        Better.LOWER,
        "Largest difference of a logit after merging, over the largest logit before, on held-out text.",
    ),
)


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """The error of attaching the method."""
    yield _error("attach_error", subject.attach_error, subject.state)


def measure_served(subject: ServedSubject) -> Iterator[Measurement | Missing]:
    """The error of loading the checkpoint, and of merging once the method is merged."""
    if subject.state == MERGED:
        yield _error("merge_error", subject.merge_error, subject.state)
    else:
        yield _error("reload_error", subject.reload_error, subject.state)


def _error(metric: str, value: float | None, state: str) -> Measurement | Missing:
    return (
        Missing(metric, state, "the outputs were not compared") if value is None else Measurement(metric, value, state)
    )
