"""All metrics of a cell but latency, which `bench.worker.latency` measures.

Functions of this room are called in a fresh process by `bench.runner.process`. They take and return plain values.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config.sources import Dtype
from bench.probes.registry import measure, probes
from bench.records.record import MERGED, UNMERGED, Measurement, Missing
from bench.records.results import ProbeResults
from bench.worker.setup import CHECKPOINT, Report, load_text, start
from bench.workload.corpus import Corpus
from bench.workload.models import load_model
from bench.workload.plan import Plan
from bench.workload.subject import BaseSubject, ServedSubject, Subject, TrainingSubject
from bench.workload.training import Trainer, attach_to_train
from methods import Attached, Unsupported
from methods.architectures import embedding_shape, sizes_of

ROUNDING = {Dtype.float32: 1e-4, Dtype.bfloat16: 1e-1}
"""The largest error that rounding explains, by dtype. A merge with a larger one is wrong and gets no row."""


@dataclass(frozen=True)
class Trained:
    """What training leaves behind: the model itself is gone, because there may be no room for two."""

    checkpoint: Path
    logits: Tensor
    """Outputs of the trained method in its serving form."""
    base_parameters: int
    metadata: Mapping[str, object]


def measure_metrics(config: Mapping[str, Any], staging: str, report: Report) -> ProbeResults:
    """Measures the base, the training budget, and each state in which the method serves. Leaves the checkpoint."""
    plan = start(config, staging)
    results = ProbeResults()
    report("loading")
    corpus = load_text(plan)
    results.metadata["data"] = {"fingerprint": corpus.fingerprint, **corpus.description}
    if plan.torch_device.type == "cuda":
        results.machine["accelerator"] = torch.cuda.get_device_name(plan.torch_device)
    trained = _train(plan, corpus, Path(staging) / CHECKPOINT, results, report)
    gc.collect()  # hooks and their models refer to each other
    _serve(plan, corpus, trained, results, report)
    return results


def _train(plan: Plan, corpus: Corpus, checkpoint: Path, results: ProbeResults, report: Report) -> Trained:
    """Measures the base and the training, and saves the method."""
    base = load_model(plan.model, plan.torch_device, plan.seed)
    results.metadata["model"] = _shape(base)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    _probe(BaseSubject(plan, base, corpus), results, report)
    untouched = _logits(base, corpus)
    torch.manual_seed(plan.seed)
    attached = attach_to_train(plan, plan.method, base)
    attached.model.eval()
    error = _distance(untouched, _logits(attached.model, corpus))
    del untouched  # a large vocabulary's logits would count as memory of the training
    attached.model.train()
    trainer = Trainer(plan, attached, corpus.train.to(plan.torch_device))
    _probe(TrainingSubject(plan, attached, trainer, parameters, error), results, report)
    trainer.finish()
    metadata = attached.metadata()
    results.metadata["training"] = {
        "losses": trainer.losses,
        "timed_step_seconds": trainer.timed_seconds,
        "tokens": trainer.tokens_per_step * len(trainer.losses),
        "dtypes": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in trainer.parameters}),
        **metadata,
    }
    del trainer  # frees the optimizer's state
    report("saving")
    attached.prepare_for_inference()
    attached.model.eval()
    return Trained(attached.save(checkpoint), _logits(attached.model, corpus), parameters, metadata)


def _serve(plan: Plan, corpus: Corpus, trained: Trained, results: ProbeResults, report: Report) -> None:
    """Measures the method as a user of the checkpoint gets it: loaded into a new base, unmerged and then merged."""
    base = load_model(plan.model, plan.torch_device, plan.seed)
    attached = plan.method.load(base, trained.checkpoint)
    attached.model.eval()
    error = _distance(trained.logits, _logits(attached.model, corpus))
    if error > ROUNDING[plan.model.dtype]:
        results.warnings.append(f"loaded from its checkpoint, its outputs change by {error:.2g}")
    size = sum(file.stat().st_size for file in trained.checkpoint.iterdir())
    subject = ServedSubject(
        plan,
        attached,
        UNMERGED,
        corpus,
        trained.base_parameters,
        checkpoint_bytes=size,
        reload_error=error,
        metadata=trained.metadata,
    )
    _probe(subject, results, report)
    results.states.append(UNMERGED)
    report("merging")
    if (change := _merge(plan, attached, corpus, results)) is not None:
        merged = ServedSubject(plan, attached, MERGED, corpus, trained.base_parameters, merge_error=change)
        _probe(merged, results, report)
        results.states.append(MERGED)


def _merge(plan: Plan, attached: Attached, corpus: Corpus, results: ProbeResults) -> float | None:
    """Merges, and returns by how much the outputs changed; None if there is no merged state that is right."""
    try:
        if not attached.method.mergeable:
            raise Unsupported("nothing that could be merged into the base weights")
        error = merge_error(attached, corpus)
    except Unsupported as refusal:
        results.missing.append(Missing(None, MERGED, str(refusal)))
        return None
    tolerance = ROUNDING[plan.model.dtype]
    if error > tolerance and not attached.method.lossy_merge:
        results.measurements.append(Measurement("merge_error", error, MERGED))
        reason = f"merged outputs differ from unmerged ones by {error:.2g}, more than {tolerance:.0e}"
        results.missing.append(Missing(None, MERGED, reason))
        return None
    if attached.method.lossy_merge:
        results.warnings.append(f"the merge is lossy: outputs change by {error:.2g}")
    return error


def merge_error(attached: Attached, corpus: Corpus) -> float:
    """Merges the method, and compares the outputs on held-out text."""
    before = _logits(attached.model, corpus)
    attached.merge()
    attached.model.eval()
    return _distance(before, _logits(attached.model, corpus))


def _distance(before: Tensor, after: Tensor) -> float:
    """Largest difference of a logit over the largest logit before."""
    return float((after - before).abs().max() / before.abs().max())


def _logits(model: PreTrainedModel, corpus: Corpus) -> Tensor:
    with torch.no_grad():
        ids = corpus.held_out[:1].to(next(model.parameters()).device)
        logits: Tensor = model(input_ids=ids).logits.float()
    return logits


def _probe(subject: Subject, results: ProbeResults, report: Report) -> None:
    """Runs every probe that measures at the subject's stage."""
    for probe in probes():
        report(f"{probe.__name__.rpartition('.')[2]} ({subject.state})")
        for found in measure(probe, subject):
            results.add(found)


def _shape(model: PreTrainedModel) -> dict[str, Any]:
    sizes = sizes_of(model)
    return {
        "family": model.config.get_text_config().model_type,
        "layers": len(sizes.layers),
        "hidden_size": sizes.hidden_size,
        "kv_size": sizes.kv_size,
        "max_positions": sizes.max_positions,
        "vocabulary": embedding_shape(model)[0],
    }
