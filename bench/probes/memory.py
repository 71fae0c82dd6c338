"""Training memory: peak bytes of live tensors over a whole step after the first, split by category at that peak."""

from __future__ import annotations

from collections.abc import Iterator

from bench.records.metrics import Better, Metric, Scope, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject, TrainingSubject

KINDS = ("allocated", "reserved")
PHASES = ("forward", "backward", "optimizer")
SERVING = ("prefill", "decode")
NO_CARD = "not a CUDA device"


def _bytes(name: str, label: str, meaning: str, deterministic: bool = True, scope: Scope = Scope.TRAINING) -> Metric:
    return Metric(name, label, Unit.BYTES, Better.LOWER, meaning, scope, deterministic)


METRICS = (
    _bytes("train_peak_bytes", "train mem", meaning="Peak bytes of live tensors over a training step."),
    _bytes("train_weights_bytes", "weights", meaning="Of these: weights, trained or not."),
    _bytes("train_gradients_bytes", "gradients", meaning="Of these: gradients alive at the peak."),
    _bytes("train_optimizer_state_bytes", "optimizer", meaning="Of these: optimizer state."),
    _bytes(
        "train_method_state_bytes",
        "method state",
        meaning="Of these: what the method keeps from step to step beside its parameters.",
    ),
    _bytes("train_other_bytes", "activations", meaning="Of these: activations and all else."),
    _bytes(
        "train_rounded_bytes",
        "in blocks",
        meaning="Peak bytes with each tensor in whole blocks of 512 B, as CUDA's allocator has them.",
    ),
    *(
        _bytes(
            f"train_cuda_{kind}_bytes", f"cuda {kind}", meaning=f"CUDA's own peak of {kind} bytes.", deterministic=False
        )
        for kind in KINDS
    ),
    *(
        _bytes(
            f"{phase}_cuda_allocated_bytes",
            f"{phase} cuda",
            meaning=f"CUDA's own peak of allocated bytes in the {phase} phase.",
            deterministic=False,
            scope=scope,
        )
        for phases, scope in ((PHASES, Scope.TRAINING), (SERVING, Scope.STATE))
        for phase in phases
    ),
    _bytes(
        "train_workspace_bytes",
        "workspace",
        meaning="At CUDA's peak, what was asked of its allocator beside tensors.",
        deterministic=False,
    ),
    _bytes(
        "train_rounding_bytes",
        "rounding",
        meaning="At CUDA's peak, what its blocks have beyond what was asked for.",
        deterministic=False,
    ),
)
NEEDS_DATA = False


def measure_training(subject: TrainingSubject) -> Iterator[Measurement | Missing]:
    """One tracked training step; on CUDA another one for the allocator's own peaks."""
    peak = subject.trainer.tracked_step()
    yield Measurement("train_peak_bytes", peak.total_bytes, subject.state)
    yield Measurement("train_weights_bytes", peak.weights_bytes, subject.state)
    yield Measurement("train_gradients_bytes", peak.gradients_bytes, subject.state)
    yield Measurement("train_optimizer_state_bytes", peak.optimizer_state_bytes, subject.state)
    yield Measurement("train_method_state_bytes", peak.method_state_bytes, subject.state)
    yield Measurement("train_other_bytes", peak.other_bytes, subject.state)
    yield Measurement("train_rounded_bytes", peak.rounded_bytes, subject.state)
    if subject.device.type != "cuda":
        names = [f"train_cuda_{kind}_bytes" for kind in KINDS] + [f"{phase}_cuda_allocated_bytes" for phase in PHASES]
        for name in (*names, "train_workspace_bytes", "train_rounding_bytes"):
            yield Missing(name, subject.state, NO_CARD)
        return
    from bench.instruments.allocator import CudaAllocator, reconcile

    peaks = subject.trainer.phase_peaks(CudaAllocator(subject.device))
    highest = max(peaks.values(), key=lambda one: one.allocated_bytes)
    yield Measurement("train_cuda_allocated_bytes", highest.allocated_bytes, subject.state)
    yield Measurement("train_cuda_reserved_bytes", max(one.reserved_bytes for one in peaks.values()), subject.state)
    for phase in PHASES:
        yield Measurement(f"{phase}_cuda_allocated_bytes", peaks[phase].allocated_bytes, subject.state)
    parts = reconcile(peak, highest)
    yield Measurement("train_workspace_bytes", parts.workspace_bytes, subject.state)
    yield Measurement("train_rounding_bytes", parts.rounding_bytes, subject.state)


def measure_inference(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    """The allocator's peaks of both phases."""
    if subject.device.type != "cuda":
        for phase in SERVING:
            yield Missing(f"{phase}_cuda_allocated_bytes", subject.state, NO_CARD)
        return
    import torch

    from bench.instruments.allocator import CudaAllocator
    from bench.instruments.steps import PHASES as STEPS
    from bench.instruments.steps import NoCache

    with torch.no_grad():
        for batch, length in subject.plan.points():
            for phase in SERVING:
                allocator = CudaAllocator(subject.device)
                try:
                    steps = STEPS[phase](subject.model, subject.prompt(batch, length), subject.plan.runtime)
                except NoCache as error:
                    yield Missing(f"{phase}_cuda_allocated_bytes", subject.state, str(error))
                    continue
                steps.run(1)
                allocator.reset()
                steps.run(1)
                peak = allocator.peak()
                yield Measurement(f"{phase}_cuda_allocated_bytes", peak.allocated_bytes, subject.state, batch, length)
