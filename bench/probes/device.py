"""What the device does in a step, as it is executed: kernels, busy time, energy; and where a compiler broke off."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.figures import Better, Figure, Unit
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject

PHASES = {"prefill": "prefill", "decode": "decode step"}
COUNTED = ("kernels", "busy_seconds")
ENERGY, BREAKS = "decode_joules_per_token", "decode_graph_breaks"
_unsteady = partial(Figure, better=Better.LOWER, steady=False)
FIGURES = (
    *(
        figure
        for phase, what in PHASES.items()
        for figure in (
            _unsteady(f"{phase}_kernels", f"{phase} kernels", Unit.COUNT, meaning=f"Kernels of one {what}."),
            _unsteady(
                f"{phase}_busy_seconds",
                f"{phase} busy s",
                Unit.SECONDS,
                meaning=f"Seconds of one {what} in which the device computes.",
            ),
        )
    ),
    _unsteady(ENERGY, "energy", Unit.JOULES, meaning="Energy of the card for one decoded token of one sequence."),
    Figure(
        BREAKS,
        "graph breaks",
        Unit.COUNT,
        Better.LOWER,
        "Places of a decode step where torch.compile falls back on Python.",
    ),
)
STAGES = frozenset({Stage.BASE, Stage.SERVED})


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """Both phases at every workload point."""
    import torch

    with torch.no_grad():
        yield from _breaks(subject)
        if subject.device.type != "cuda":
            for name in (*(f"{phase}_{name}" for phase in PHASES for name in COUNTED), ENERGY):
                yield Missing(name, subject.state, "not a CUDA device")
            return
        for batch, length in subject.plan.points():
            yield from _launches(subject, batch, length)


def _breaks(subject: Subject) -> Iterator[Reading | Missing]:
    from torch._dynamo.utils import counters

    from bench.config.schema import Execution
    from bench.instruments.steps import Decode

    if subject.plan.runtime.execution is not Execution.compile:
        yield Missing(BREAKS, subject.state, "nothing is compiled in this runtime")
        return
    batch, length = subject.plan.points()[0]
    counters.clear()
    Decode(subject.model, subject.prompt(batch, length), subject.plan.runtime)
    yield Reading(BREAKS, sum(counters["graph_break"].values()), subject.state)


def _launches(subject: Subject, batch: int, length: int) -> Iterator[Reading | Missing]:
    from bench.config.schema import Phase
    from bench.instruments.card import Nvml
    from bench.instruments.launches import joules_a_step, launches
    from bench.instruments.steps import MOST_STEPS
    from bench.instruments.steps import PHASES as KINDS
    from bench.instruments.timing import clock_for
    from methods import Unsupported

    for phase in subject.plan.workload.phases:
        try:
            steps = KINDS[phase](subject.model, subject.prompt(batch, length), subject.plan.runtime)
        except Unsupported as error:
            yield from (Missing(f"{phase}_{name}", subject.state, str(error)) for name in COUNTED)
            continue
        found = launches(steps)
        for name in COUNTED:
            yield Reading(f"{phase}_{name}", getattr(found, name), subject.state, batch, length)
        if phase is Phase.decode:
            card, clock = Nvml.of(subject.device), clock_for(subject.device)
            used = None if card is None else joules_a_step(steps, MOST_STEPS, clock, card.joules)
            if used is None:
                yield Missing(ENERGY, subject.state, "the card's driver does not count energy")
            else:
                yield Reading(ENERGY, used / batch, subject.state, batch, length)
