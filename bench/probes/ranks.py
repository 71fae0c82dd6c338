"""The final ranks of a method that allocates a budget of ranks to the projections."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import UNMERGED, Measurement, Missing
from bench.workload.subject import ServedSubject

METRICS = (
    Metric("rank_total", "ranks", Unit.COUNT, Better.NEITHER, "Sum of the final ranks.", Scope.TRAINING),
    Metric("rank_min", "min rank", Unit.COUNT, Better.NEITHER, "Smallest final rank.", Scope.TRAINING),
    Metric("rank_max", "max rank", Unit.COUNT, Better.NEITHER, "Largest final rank.", Scope.TRAINING),
)


def measure_served(subject: ServedSubject) -> Iterator[Measurement | Missing]:
    """The ranks with which the method serves."""
    if subject.state != UNMERGED:
        return
    ranks = subject.metadata.get("ranks")
    if not isinstance(ranks, dict):
        for metric in METRICS:
            yield Missing(metric.name, subject.state, "the method does not allocate a budget of ranks")
        return
    values = list(ranks.values())
    for metric, value in zip(METRICS, (sum(values), min(values), max(values)), strict=True):
        yield Measurement(metric.name, value, subject.state)
