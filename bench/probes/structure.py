"""Structure of one prefill and one decode step, and FLOPs of a training step: counts without noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject, TrainingSubject

if TYPE_CHECKING:  # tables read the metrics without torch
    from bench.instruments.structure import Structure

MEANINGS = {
    "operations": "Operations that compute something, in one {}.",
    "matmuls": "Products in one {}: of matrices, convolutions; attention is one.",
    "critical_path": "Operations on the longest chain of dependent ones in one {}.",
    "critical_path_matmuls": "Products on the longest chain of dependent ones in one {}.",
    "flops": "Floating-point operations of the products in one {}.",
}
PHASES = {"prefill": "prefill", "decode": "decode step"}
METRICS = (
    *(
        Metric(
            f"{phase}_{name}",
            f"{phase} {name.replace('_', ' ')}",
            Unit.FLOPS if name == "flops" else Unit.COUNT,
            Better.LOWER,
            meaning.format(PHASES[phase]),
        )
        for phase in PHASES
        for name, meaning in MEANINGS.items()
    ),
    Metric(
        "train_flops",
        "train FLOPs",
        Unit.FLOPS,
        Better.LOWER,
        "Floating-point operations of the products in one training step, forward and backward.",
        Scope.TRAINING,
    ),
)
NEEDS_DATA = False


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """FLOPs of a training step."""
    structure = subject.trainer.structure()
    if structure.flops is None:
        yield Missing("train_flops", subject.state, structure.reason)
    else:
        yield Measurement("train_flops", structure.flops, subject.state)


def measure_inference(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    """Both phases at every workload point."""
    import torch

    from bench.config.schema import Execution
    from bench.instruments.steps import Decode, NoCache, filled_cache
    from bench.instruments.structure import StructureCounter

    # what the compiler or the graph is given: nothing can be seen below a compiled step or a graph
    runtime = replace(subject.plan.runtime, execution=Execution.eager)
    with torch.no_grad():
        for batch, length in subject.plan.points():
            prompt = subject.prompt(batch, length)
            prefill, decode = StructureCounter(), StructureCounter()
            try:
                with prefill:
                    cache = filled_cache(subject.model, prompt)
                step = Decode(subject.model, prompt, runtime, cache)
                with decode:
                    step.run(1)
                yield from _found("decode", decode.result(), subject.state, batch, length)
            except NoCache as error:
                yield from (Missing(f"decode_{name}", subject.state, str(error)) for name in MEANINGS)
            yield from _found("prefill", prefill.result(), subject.state, batch, length)


def _found(phase: str, structure: Structure, state: str, batch: int, length: int) -> Iterator[Measurement | Missing]:
    for name, value in structure.counts.items():
        if value is None:
            yield Missing(f"{phase}_{name}", state, structure.reason)
        else:
            yield Measurement(f"{phase}_{name}", value, state, batch, length)
