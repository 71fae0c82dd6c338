"""Profiler traces of one cell: one training step and one decode step, in a pass of its own that is not timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule, tensorboard_trace_handler

from bench.instruments.steps import Decode, NoCache
from bench.worker.setup import Report, load_text, start
from bench.workload.models import load_model
from bench.workload.subject import prompt_of
from bench.workload.training import Trainer, attach_to_train

WARM_STEPS = 2


def trace(config: Mapping[str, Any], folder: str, report: Report) -> list[str]:
    """Writes ``FOLDER/train.*.pt.trace.json`` and ``decode.*``, where TensorBoard's profiler plugin finds them."""
    plan = start(config)
    corpus = load_text(plan)
    attached = attach_to_train(plan, plan.method, load_model(plan.model, plan.torch_device, plan.seed))
    model = attached.model
    trainer = Trainer(plan, attached, corpus.train.to(plan.torch_device))
    report("tracing a training step")
    model.train()
    _trace(trainer.step, Path(folder), "train")
    report("tracing a decode step")
    attached.prepare_for_inference()
    model.eval()
    batch, length = plan.points()[0]
    with torch.no_grad(), suppress(NoCache):  # its record says so
        decode = Decode(model, prompt_of(corpus.held_out, batch, length).to(plan.torch_device))
        _trace(lambda: decode.run(1), Path(folder), "decode")
    return sorted(str(path) for path in Path(folder).glob("*.pt.trace.json"))


def _trace(step: Callable[[], None], folder: Path, name: str) -> None:
    """Traces the step after ``WARM_STEPS`` others, because the first steps are unusual."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    # an earlier trace of this name would stand beside the new one as another run
    for old in folder.glob(f"{name}.*.pt.trace.json"):
        old.unlink()
    with profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=WARM_STEPS, active=1, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder), worker_name=name),
        record_shapes=True,
        profile_memory=True,
        with_flops=True,
        acc_events=True,
    ) as profiler:
        for _ in range(WARM_STEPS + 1):
            step()
            profiler.step()
