"""Latency relative to the control, timed in turn in several processes.

`bench.worker.latency.measure_pairs` takes the raw samples, one child a replicate, and records keep them. Tables derive
these metrics from them, so nothing is measured here but whether there is a step that can be timed.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.metrics import Better, Metric, Unit
from bench.records.record import Missing
from bench.workload.subject import InferenceSubject


def _metrics(phase: str, what: str) -> tuple[Metric, ...]:
    return (
        Metric(f"{phase}_seconds", phase, Unit.SECONDS, Better.LOWER, f"Median seconds of {what}."),
        Metric(
            f"{phase}_ratio",
            f"{phase} ratio",
            Unit.RATIO,
            Better.LOWER,
            f"Seconds of {what} over the control's, timed in turn.",
        ),
        Metric(f"{phase}_ratio_low", f"{phase} low", Unit.RATIO, Better.NEITHER, "Lower end of its 95% interval."),
        Metric(f"{phase}_ratio_high", f"{phase} high", Unit.RATIO, Better.NEITHER, "Upper end of its 95% interval."),
        Metric(
            f"{phase}_busy",
            f"{phase} busy",
            Unit.FRACTION,
            Better.NEITHER,
            f"Fraction of the seconds of {what} in which the device computes and does not wait for the host.",
            deterministic=False,
        ),
    )


METRICS = (
    *_metrics("prefill", "one forward pass over the prompt that fills the cache"),
    *_metrics("decode", "one token a sequence on top of the filled cache"),
    Metric(
        "processes", "n", Unit.COUNT, Better.NEITHER, "Replicate processes behind the intervals.", deterministic=False
    ),
)


def measure_inference(subject: InferenceSubject) -> Iterator[Missing]:
    """Why a phase is not timed."""
    import torch

    from bench.instruments.steps import NoCache, filled_cache

    try:
        with torch.no_grad():
            filled_cache(subject.model, subject.prompt(1, 1))
    except NoCache as error:
        yield from (Missing(f"decode_{name}", subject.state, str(error)) for name in ("seconds", "ratio"))
