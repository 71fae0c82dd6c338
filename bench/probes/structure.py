"""Structure of one prefill and one decode step, and FLOPs of a training step: what no noise can touch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.records.figures import Better, Figure, Scope, Unit
from bench.records.record import Missing, Reading
from bench.workload.subject import Stage, Subject

MEANINGS = {
    "operations": "Operations that compute something, in one {}.",
    "matmuls": "Matrix products in one {}; attention is one.",
    "chain": "Longest chain of dependent operations in one {}.",
    "matmul_chain": "Longest chain of dependent matrix products in one {}.",
    "flops": "Floating-point operations of the products in one {}.",
}
PHASES = {"prefill": "prefill", "decode": "decode step"}
FIGURES = (
    *(
        Figure(
            f"{phase}_{name}",
            f"{phase} {name.replace('_', ' ')}",
            Unit.FLOPS if name == "flops" else Unit.COUNT,
            Better.LOWER,
            meaning.format(PHASES[phase]),
        )
        for phase in PHASES
        for name, meaning in MEANINGS.items()
    ),
    Figure(
        "train_flops",
        "train FLOPs",
        Unit.FLOPS,
        Better.LOWER,
        "Floating-point operations of the products in one training step, forward and backward.",
        Scope.TRAINING,
    ),
)
STAGES = frozenset(Stage)


def measure(subject: Subject) -> Iterator[Reading | Missing]:
    """Both phases at every workload point; of training the FLOPs."""
    if subject.stage is Stage.TRAINING:
        assert subject.trainer is not None
        yield Reading("train_flops", subject.trainer.flops(), subject.state)
        return
    import torch

    from bench.config.schema import Execution
    from bench.instruments.steps import PHASES as KINDS
    from bench.instruments.structure import StructureCounter

    # what the runtime is given: below a compiled step or a graph nothing can be seen
    runtime = replace(subject.plan.runtime, execution=Execution.eager)

    with torch.no_grad():
        for batch, length in subject.plan.points():
            for phase in PHASES:
                steps = KINDS[phase](subject.model, subject.prompt(batch, length), runtime)
                with StructureCounter() as counter:
                    steps.run(1)
                result = counter.result()
                for name in MEANINGS:
                    yield Reading(f"{phase}_{name}", getattr(result, name), subject.state, batch, length)
