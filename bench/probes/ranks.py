"""Where a method that spreads a budget of ranks over the projections has put it."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import UNMERGED, Missing, Reading
from bench.workload.subject import Stage, Subject

FIGURES = (
    Figure("rank_total", "ranks", Unit.COUNT, Better.NEITHER, "Sum of the final ranks.", Scope.TRAINING),
    Figure("rank_least", "least rank", Unit.COUNT, Better.NEITHER, "Smallest final rank.", Scope.TRAINING),
    Figure("rank_most", "most rank", Unit.COUNT, Better.NEITHER, "Largest final rank.", Scope.TRAINING),
)
STAGES = frozenset({Stage.SERVED})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """The ranks with which the method serves."""
    if subject.state != UNMERGED:
        return
    ranks = subject.trained_facts.get("ranks")
    if not isinstance(ranks, dict):
        for figure in FIGURES:
            yield Missing(figure.name, subject.state, "the method has no budget of ranks to spread")
        return
    values = list(ranks.values())
    for figure, value in zip(FIGURES, (sum(values), min(values), max(values)), strict=True):
        yield Reading(figure.name, value, subject.state)
