"""What runs in a cell's first child process: all figures but latency, which `bench.worker.latency` measures.

Every function here is called in a fresh process by `bench.runner.process`, takes plain values and returns plain values.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config.sources import Dtype
from bench.probes import probes
from bench.records.record import CONTROL, MERGED, UNMERGED, Missing, Reading
from bench.records.results import Findings
from bench.worker.setup import CHECKPOINT, Report, load_text, start
from bench.workload.corpus import Corpus
from bench.workload.models import load_model
from bench.workload.plan import Plan
from bench.workload.subject import Stage, Subject
from bench.workload.training import Trainer
from methods import Attached, Unsupported
from methods.architectures import embedding_shape, sizes_of

ROUNDING = {Dtype.float32: 1e-4, Dtype.bfloat16: 1e-1}
"""Largest error that rounding explains, by dtype; beyond it a merge is wrong and gets no row."""


def measure_figures(config: Mapping[str, Any], staging: str, report: Report) -> Findings:
    """All figures but latency: the base, the training budget, and each state that serves. Leaves the checkpoint."""
    plan = start(config, staging)
    findings = Findings()
    report("loading")
    corpus = load_text(plan)
    subject = _subject(plan, corpus)  # nothing here holds the model beside it, so that it can be let go
    description = {"fingerprint": corpus.fingerprint, **corpus.description}
    findings.facts = {"model": _shape(subject.base), "data": description}
    if plan.torch_device.type == "cuda":
        findings.machine = {"accelerator": torch.cuda.get_device_name(plan.torch_device)}
    _probe(subject, findings, report)
    _train(subject, findings, report)
    _serve(subject, findings, Path(staging), report)
    return findings


def _subject(plan: Plan, corpus: Corpus) -> Subject:
    model = load_model(plan.model, plan.torch_device, plan.seed)
    return Subject(Stage.BASE, CONTROL, plan, model, model, corpus, sum(p.numel() for p in model.parameters()))


def _train(subject: Subject, findings: Findings, report: Report) -> None:
    plan = subject.plan
    untouched = _logits(subject)
    torch.manual_seed(plan.seed)
    subject.attached = plan.method.attach(subject.base)
    subject.model = subject.attached.model
    subject.model.eval()
    subject.attach_error = _distance(untouched, _logits(subject))
    del untouched  # a large vocabulary's logits would count as the training's memory
    # evaluation before this stage, the training budget in training mode
    subject.model.train()
    subject.trainer = Trainer(plan, subject.attached, subject.corpus.train.to(plan.torch_device))
    subject.stage, subject.state = Stage.TRAINING, UNMERGED
    _probe(subject, findings, report)
    subject.trainer.finish()
    subject.trained_facts = subject.attached.metadata()
    findings.facts["training"] = {
        "losses": subject.trainer.losses,
        "timed_step_seconds": subject.trainer.timed_seconds,
        "tokens": subject.trainer.tokens_per_step * len(subject.trainer.losses),
        "dtypes": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in subject.trainer.parameters}),
        **subject.trained_facts,
    }


def _serve(subject: Subject, findings: Findings, staging: Path, report: Report) -> None:
    report("saving")
    attached = _reloaded(subject, staging)
    assert subject.reload_error is not None
    subject.stage = Stage.SERVED
    tolerance = ROUNDING[subject.plan.model.dtype]
    if subject.reload_error > tolerance:
        findings.notes.append(f"read from its checkpoint, its outputs change by {subject.reload_error:.2g}")
    _probe(subject, findings, report)
    findings.states.append(UNMERGED)
    if not attached.method.mergeable:
        findings.missing.append(Missing("*", MERGED, "nothing that could be merged into the base weights"))
        return
    report("merging")
    try:
        subject.merge_error = merge_error(subject, attached)
    except Unsupported as error:
        findings.missing.append(Missing("*", MERGED, str(error)))
        return
    subject.state = MERGED
    if subject.merge_error > tolerance and not attached.method.lossy_merge:
        findings.readings.append(Reading("merge_error", subject.merge_error, MERGED))
        reason = f"merged outputs differ from unmerged ones by {subject.merge_error:.2g}, more than {tolerance:.0e}"
        findings.missing.append(Missing("*", MERGED, reason))
        return
    if attached.method.lossy_merge:
        findings.notes.append(f"the merge is lossy: outputs change by {subject.merge_error:.2g}")
    _probe(subject, findings, report)
    findings.states.append(MERGED)


def _reloaded(subject: Subject, staging: Path) -> Attached:
    """The method as whoever is given the checkpoint gets it: read into a new base, the trained model gone."""
    plan, trained = subject.plan, subject.attached
    assert trained is not None
    subject.trainer = None  # frees the optimiser's state
    trained.prepare_for_inference()
    trained.model.eval()
    before = _logits(subject)
    subject.checkpoint = trained.save(staging / CHECKPOINT)
    del trained, subject.attached, subject.model, subject.base  # there may be no room for two
    gc.collect()  # hooks and the model that they are on know one another
    subject.base = load_model(plan.model, plan.torch_device, plan.seed)
    subject.attached = attached = plan.method.load(subject.base, subject.checkpoint)
    subject.model = attached.model.eval()
    subject.reload_error = _distance(before, _logits(subject))
    return attached


def merge_error(subject: Subject, attached: Attached) -> float:
    """Merges, and compares the logits on held-out text: largest difference over largest logit."""
    before = _logits(subject)
    attached.merge()
    subject.model = attached.model.eval()
    after = _logits(subject)
    return _distance(before, after)


def _distance(before: Tensor, after: Tensor) -> float:
    """Largest difference of a logit over the largest logit before."""
    return float((after - before).abs().max() / before.abs().max())


def _logits(subject: Subject) -> Tensor:
    ids = subject.corpus.held_out[:1].to(subject.device)
    with torch.no_grad():
        logits: Tensor = subject.model(input_ids=ids).logits.float()
    return logits


def _probe(subject: Subject, findings: Findings, report: Report) -> None:
    """Runs every probe that has something to say at this stage."""
    for probe in probes():
        if subject.stage in probe.STAGES:
            report(f"{probe.__name__.rpartition('.')[2]} ({subject.state})")  # type: ignore[attr-defined]  # a module
            for found in probe.measure(subject):
                if isinstance(found, Reading):
                    findings.readings.append(found)
                else:
                    findings.missing.append(found)


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
