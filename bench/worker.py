"""What runs in a cell's child processes: one measures the figures, further ones are replicates for latency.

Every function here is called in a fresh process by `bench.launch`, takes plain values and returns plain values.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.config import Sharing, Switch
from bench.data import Corpus, DataError, load_corpus
from bench.errors import UsageError
from bench.findings import Findings, Resolved
from bench.instruments.timing import PHASES, Effort, clock_for, time_pairs
from bench.models import ModelError, load_model, load_tokenizer
from bench.plan import Plan, read_plan, resolve
from bench.probes import probes
from bench.records import AA, CONTROL, MERGED, UNMERGED, Missing, Pairs, Reading
from bench.sources import Dtype
from bench.subject import Stage, Subject, prompt_of
from bench.training import Trainer, weight_tensors
from methods import Attached, load
from methods.anatomy import anatomy_of, embedding_shape

Report = Callable[[str], None]
"""Tells the parent what is being done now."""

MERGE_TOLERANCE = {Dtype.float32: 1e-4, Dtype.bfloat16: 1e-1}
"""Largest merge error that rounding explains, by dtype; beyond it a merge is wrong and gets no row."""

CHECKPOINT = "method.safetensors"


def resolve_all(configs: Sequence[Mapping[str, Any]], report: Report) -> list[Resolved | str]:
    """Every configuration resolved, or the line that says why it can't be."""
    found: list[Resolved | str] = []
    texts: dict[str, str | None] = {}
    for config in configs:
        try:
            found.append(resolve(config))
        except UsageError as error:
            found.append(str(error))
            continue
        # the text is the same for most cells of a sweep, and worth reading once
        key = repr([config[name] for name in ("model", "data", "workload")])
        if key not in texts:
            texts[key] = _text_refused(read_plan(config))
        if (line := texts[key]) is not None:
            found[-1] = line
    return found


def _text_refused(plan: Plan) -> str | None:
    try:
        load_text(plan)
    except (DataError, ModelError) as error:
        return f"{plan.data.name}: {error}"
    return None


def measure_figures(config: Mapping[str, Any], staging: str, report: Report) -> Findings:
    """All figures but latency: the base, the training budget, and each state that serves. Leaves the checkpoint."""
    plan = start(config)
    findings = Findings()
    report("loading")
    corpus = load_text(plan)
    model = load_model(plan.model, plan.torch_device, plan.seed)
    subject = Subject(Stage.BASE, CONTROL, plan, model, corpus, sum(p.numel() for p in model.parameters()))
    findings.facts = {"model": _shape(model), "data": {"fingerprint": corpus.fingerprint, **corpus.description}}
    if plan.torch_device.type == "cuda":
        findings.machine = {"accelerator": torch.cuda.get_device_name(plan.torch_device)}
    _probe(subject, findings, report)
    _train(subject, findings, report)
    _serve(subject, findings, Path(staging), report)
    return findings


def _train(subject: Subject, findings: Findings, report: Report) -> None:
    plan = subject.plan
    untouched = _logits(subject)
    torch.manual_seed(plan.seed)
    subject.attached = plan.method.attach(subject.model)
    subject.model.eval()
    subject.attach_error = _distance(untouched, _logits(subject))
    del untouched  # a large vocabulary's logits would count as the training's memory
    # evaluation before this stage, the training budget in training mode
    subject.model.train()
    subject.trainer = Trainer(plan, subject.attached, subject.corpus.train.to(plan.torch_device))
    subject.stage, subject.state = Stage.TRAINING, UNMERGED
    _probe(subject, findings, report)
    subject.trainer.finish()
    findings.facts["training"] = {
        "losses": subject.trainer.losses,
        "timed_step_seconds": subject.trainer.timed_seconds,
        "tokens": subject.trainer.tokens_per_step * len(subject.trainer.losses),
        **subject.attached.facts(),
    }


def _serve(subject: Subject, findings: Findings, staging: Path, report: Report) -> None:
    attached = subject.attached
    assert attached is not None
    subject.trainer = None  # frees the optimiser's state
    attached.serve()
    subject.model.eval()
    subject.checkpoint = attached.save(staging / CHECKPOINT)
    subject.stage = Stage.SERVED
    _probe(subject, findings, report)
    findings.states.append(UNMERGED)
    if not attached.method.mergeable:
        findings.missing.append(Missing("*", MERGED, "nothing that could be merged into the base weights"))
        return
    report("merging")
    subject.merge_error = merge_error(subject, attached)
    subject.state = MERGED
    tolerance = MERGE_TOLERANCE[subject.plan.model.dtype]
    if subject.merge_error > tolerance and not attached.method.lossy_merge:
        findings.readings.append(Reading("merge_error", subject.merge_error, MERGED))
        reason = f"merged outputs differ from unmerged ones by {subject.merge_error:.2g}, more than {tolerance:.0e}"
        findings.missing.append(Missing("*", MERGED, reason))
        return
    if attached.method.lossy_merge:
        findings.notes.append(f"merging {attached.method.name} is lossy: outputs change by {subject.merge_error:.2g}")
    _probe(subject, findings, report)
    findings.states.append(MERGED)


def merge_error(subject: Subject, attached: Attached) -> float:
    """Merges, and compares the logits on held-out text: largest difference over largest logit."""
    before = _logits(subject)
    attached.merge()
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


def measure_pairs(
    config: Mapping[str, Any], staging: str, states: Sequence[str], process: int, report: Report
) -> list[Pairs]:
    """One replicate: every state and a second control against the control, both phases at every workload point."""
    plan = start(config)
    rng = random.Random(f"{plan.seed}-{process}")
    base = load_model(plan.model, plan.torch_device, plan.seed)
    arms = [CONTROL, *([AA] if plan.precision.second_control is Switch.on else []), *states]
    share = must_share(plan, base, len(arms))
    models = dict(_arms(base, arms, Path(staging) / CHECKPOINT, share, rng))
    del base
    effort = effort_of(plan)
    tokens = random_tokens(plan, models[CONTROL])
    found: list[Pairs] = []
    with torch.no_grad():  # as `generate` runs
        for batch, length in plan.points():
            prompt = prompt_of(tokens, batch, length).to(plan.torch_device)
            for phase in plan.workload.phases:
                report(phase)
                steps = {arm: PHASES[phase](model, prompt) for arm, model in models.items()}
                timed = time_pairs(steps.pop(CONTROL), steps, effort, clock_for(plan.torch_device), rng)
                for arm, blocks in timed.items():
                    found.append(Pairs(process, str(phase), arm, batch, length, **vars(blocks), shared_weights=share))
    return found


def effort_of(plan: Plan) -> Effort:
    """How much one process times."""
    precision = plan.precision
    return Effort(precision.pairs, precision.warmup_steps, precision.discarded_steps, precision.block_seconds)


def random_tokens(plan: Plan, model: PreTrainedModel) -> Tensor:
    """Token ids [4096] for prompts: latency does not depend on which."""
    vocabulary = embedding_shape(model)[0]
    return torch.randint(vocabulary, (4096,), generator=torch.Generator().manual_seed(plan.seed))


def _arms(
    base: PreTrainedModel, arms: Sequence[str], checkpoint: Path, share: bool, rng: random.Random
) -> Iterator[tuple[str, PreTrainedModel]]:
    """The arms' models, built in random order: where in memory an arm lies must not depend on which arm it is."""
    for arm in rng.sample(arms, len(arms)):
        memo = {id(tensor): tensor for tensor in weight_tensors(base)} if share else {}
        model = copy.deepcopy(base, memo)
        if arm in (UNMERGED, MERGED):
            attached = load(model, checkpoint)
            if arm == MERGED:
                attached.merge()
        yield arm, model.eval()


def must_share(plan: Plan, model: PreTrainedModel, arms: int) -> bool:
    """Whether the arms share storage, because they are told to or because that many copies do not fit."""
    if plan.device.sharing is not Sharing.auto:
        return plan.device.sharing is Sharing.share
    size = sum(tensor.numel() * tensor.element_size() for tensor in weight_tensors(model))
    return size * (arms + 1) > 0.8 * _free_bytes(plan.torch_device)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62  # unknown: copies are the rule


def start(config: Mapping[str, Any]) -> Plan:
    """Reads the configuration and sets this process up for it."""
    plan = read_plan(config)
    if plan.device.threads is not None:
        torch.set_num_threads(plan.device.threads)
    torch.manual_seed(plan.seed)
    return plan


def load_text(plan: Plan) -> Corpus:
    """The training and held-out text of a cell.

    Raises:
        DataError: it can't be had, or there is too little of it.
        ModelError: the tokenizer can't be had.
    """
    work = plan.workload
    return load_corpus(
        plan.data,
        load_tokenizer(plan.model),
        work.train_length,
        work.train_steps * work.train_batch_size,
        work.held_out_sequences,
    )


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
    anatomy = anatomy_of(model)
    return {
        "family": anatomy.family.name,
        "layers": len(anatomy.layers),
        "hidden_size": anatomy.hidden_size,
        "kv_size": anatomy.kv_size,
        "max_positions": anatomy.max_positions,
        "vocabulary": embedding_shape(model)[0],
    }
