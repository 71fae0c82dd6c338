"""What the device does in a step: kernels, busy time, energy; and graph breaks of the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.records.metrics import Better, Metric, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject

PHASES = {"prefill": "prefill", "decode": "decode step"}
COUNTED = ("kernels", "busy_seconds")
ENERGY, BREAKS = "decode_joules_per_token", "decode_graph_breaks"
_varying = partial(Metric, better=Better.LOWER, deterministic=False)
METRICS = (
    *(
        metric
        for phase, what in PHASES.items()
        for metric in (
            _varying(f"{phase}_kernels", f"{phase} kernels", Unit.COUNT, meaning=f"Kernels of one {what}."),
            _varying(
                f"{phase}_busy_seconds",
                f"{phase} busy s",
                Unit.SECONDS,
                meaning=f"Seconds of one {what} in which the device computes.",
            ),
        )
    ),
    _varying(ENERGY, "energy", Unit.JOULES, meaning="Energy of the card for one decoded token of one sequence."),
    Metric(
        BREAKS,
        "graph breaks",
        Unit.COUNT,
        Better.LOWER,
        "Places of a decode step where torch.compile falls back on Python.",
    ),
)


def measure_inference(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    """Both phases at every workload point; nothing but graph breaks where there is no CUDA device."""
    import torch

    with torch.no_grad():
        yield from _breaks(subject)
        if subject.device.type != "cuda":
            for name in (*(f"{phase}_{name}" for phase in PHASES for name in COUNTED), ENERGY):
                yield Missing(name, subject.state, "not a CUDA device")
            return
        for batch, length in subject.plan.points():
            yield from _launches(subject, batch, length)


def _breaks(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    from torch._dynamo.utils import counters

    from bench.config.schema import Execution
    from bench.instruments.steps import Decode, NoCache

    if subject.plan.runtime.execution is not Execution.compile:
        yield Missing(BREAKS, subject.state, "this runtime does not compile")
        return
    batch, length = subject.plan.points()[0]
    counters.clear()
    try:
        Decode(subject.model, subject.prompt(batch, length), subject.plan.runtime)
    except NoCache as error:
        yield Missing(BREAKS, subject.state, str(error))
        return
    yield Measurement(BREAKS, sum(counters["graph_break"].values()), subject.state)


def _launches(subject: InferenceSubject, batch: int, length: int) -> Iterator[Measurement | Missing]:
    from bench.config.schema import MAX_STEPS, Phase
    from bench.instruments.card import Nvml
    from bench.instruments.launches import energy_per_step, launches
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
            yield Measurement(f"{phase}_{name}", getattr(found, name), subject.state, batch, length)
        if phase is Phase.decode:
            card, clock = Nvml.of(subject.device), clock_for(subject.device)
            used = None if card is None else energy_per_step(steps, MAX_STEPS, clock, card.joules)
            if used is None:
                yield Missing(ENERGY, subject.state, "the card's driver does not report energy")
            else:
                yield Measurement(ENERGY, used / batch, subject.state, batch, length)
