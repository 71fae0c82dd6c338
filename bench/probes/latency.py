"""Latency against the control, timed in turn in several processes; what is stored is raw, the figures are derived.

The raw samples come from `bench.worker.latency.measure_pairs`, one child a replicate. This file says what the columns
mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.figures import Better, Figure, Unit
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject


def _figures(phase: str, what: str) -> tuple[Figure, ...]:
    return (
        Figure(f"{phase}_seconds", phase, Unit.SECONDS, Better.LOWER, f"Median seconds of {what}."),
        Figure(
            f"{phase}_ratio",
            f"{phase} ratio",
            Unit.RATIO,
            Better.LOWER,
            f"Seconds of {what} over the control's, timed in turn.",
        ),
        Figure(f"{phase}_ratio_low", f"{phase} low", Unit.RATIO, Better.NEITHER, "Lower end of its 95% interval."),
        Figure(f"{phase}_ratio_high", f"{phase} high", Unit.RATIO, Better.NEITHER, "Upper end of its 95% interval."),
        Figure(
            f"{phase}_busy",
            f"{phase} busy",
            Unit.FRACTION,
            Better.NEITHER,
            f"Part of the seconds of {what} in which the device computes; else it waits for the host.",
            steady=False,
        ),
    )


FIGURES = (
    *_figures("prefill", "one forward pass over the prompt that fills the cache"),
    *_figures("decode", "one token a sequence on top of the filled cache"),
    Figure("processes", "n", Unit.COUNT, Better.NEITHER, "Replicate processes behind the intervals.", steady=False),
)
STAGES: frozenset[Stage] = frozenset()


def measure(_subject: Subject) -> Iterator[Reading | Missing]:
    """Nothing at any stage: see the module's docstring."""
    return iter(())
