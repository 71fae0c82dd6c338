"""All metrics of a cell but latency, which `bench.worker.latency` measures.

Functions of this room are called in a fresh process by `bench.runner.process`. They take and return plain values.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bench.instruments.cache import window_of
from bench.instruments.steps import NoCache, filled_cache
from bench.probes.registry import measure, probes
from bench.records.record import MERGED, UNMERGED, Measurement, Missing
from bench.records.results import ProbeResults
from bench.worker.merging import MergedOutputs, Tie, WrongMerge, check_saved, lacking_room, merge, save_merged, ties_of
from bench.worker.outputs import ROUNDING, distance, logits
from bench.worker.setup import CHECKPOINT, Report, load_text, start
from bench.workload.corpus import Corpus
from bench.workload.models import load_model, source_warnings
from bench.workload.plan import Plan
from bench.workload.quantized import base_parameter_count
from bench.workload.subject import BaseSubject, ServedSubject, Subject, TrainingSubject
from bench.workload.training import Trainer, attach_to_train
from methods import Attached, Unsupported
from methods.architectures import embedding_shape, sizes_of


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
    report = partial(report, so_far=results)
    report("loading")
    corpus = load_text(plan)
    methods = [method for method in (plan.method, plan.reference, plan.train_reference) if method is not None]
    packages = {package for method in methods for package in method.packages}
    results.metadata["packages"] = sorted({*packages, *filter(None, [plan.model.distribution])})
    results.metadata["data"] = {"fingerprint": corpus.fingerprint, **corpus.description}
    trained = _train(plan, corpus, Path(staging) / CHECKPOINT, results, report)
    gc.collect()  # hooks and their models refer to each other
    _serve(plan, corpus, trained, results, report)
    return results


def _train(plan: Plan, corpus: Corpus, checkpoint: Path, results: ProbeResults, report: Report) -> Trained:
    """Measures the base and the training, and saves the method."""
    base = load_model(plan.model, plan.torch_device, plan.seed)
    results.metadata["model"] = _shape(base)
    results.warnings += source_warnings(plan.model)
    parameters = base_parameter_count(base)
    _probe(BaseSubject(plan, base, corpus), results, report)
    untouched = logits(base, corpus)
    torch.manual_seed(plan.seed)
    attached = attach_to_train(plan, plan.method, base)
    attached.model.eval()
    error = distance(untouched, logits(attached.model, corpus))
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
    return Trained(attached.save(checkpoint), logits(attached.model, corpus), parameters, metadata)


def _serve(plan: Plan, corpus: Corpus, trained: Trained, results: ProbeResults, report: Report) -> None:
    """Measures the method as a user of the checkpoint gets it: loaded into a new base, unmerged and then merged."""
    base = load_model(plan.model, plan.torch_device, plan.seed)
    ties = ties_of(base)
    if torch.equal(logits(base, corpus), trained.logits):
        results.warnings.append("after training, its outputs are the untouched base's, bit for bit")
    attached = plan.method.load(base, trained.checkpoint)
    attached.model.eval()
    error = distance(trained.logits, logits(attached.model, corpus))
    if not error <= ROUNDING[plan.model.dtype]:
        results.warnings.append(f"loaded from its checkpoint, its outputs change by {error:.2g}")
    results.warnings += _unseen(plan, attached, corpus)
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
    folder = trained.checkpoint.parent / MERGED
    try:
        merged, saved = _merge(plan, attached, corpus, ties, trained, folder, report)
        del base, attached, subject  # there may be no room for two
        gc.collect()
        if saved is not None:
            report("loading the merged model from its files")
            check_saved(plan, saved, corpus, folder)
    except Unsupported as refusal:
        if isinstance(refusal, WrongMerge):
            results.measurements.append(Measurement("merge_error", refusal.error, MERGED))
        results.missing.append(Missing(None, MERGED, str(refusal)))
    else:
        results.extend(merged)
        results.states.append(MERGED)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unseen(plan: Plan, attached: Attached, corpus: Corpus) -> list[str]:
    """That virtual tokens have left the window of a layer at the end of the longest sequence of the workload."""
    count, work = plan.method.virtual_tokens, plan.workload
    longest = max(*work.prompt_lengths, work.train_length)
    try:
        with torch.no_grad():
            cache = filled_cache(attached.model, corpus.held_out[:1, :1].to(plan.torch_device))
    except NoCache:
        return []
    windows = [window for layer in cache.layers if (window := window_of(layer)) is not None]
    left = min(count, count + longest - min(windows, default=count + longest))
    if left <= 0:
        return []
    return [
        f"after {longest} tokens {left} of the {count} virtual tokens are outside the sliding window of {min(windows)} "
        f"positions, which {len(windows)} of {len(cache.layers)} layers have"
    ]


def _merge(
    plan: Plan,
    attached: Attached,
    corpus: Corpus,
    ties: Sequence[Tie],
    trained: Trained,
    folder: Path,
    report: Report,
) -> tuple[ProbeResults, MergedOutputs | None]:
    """Measures the merged state, and saves the merged model into ``folder`` if it has a file and that has room.

    Raises:
        Unsupported: there is no merged state, or it is wrong, or it can't be saved.
    """
    report("merging")
    change = merge(plan, attached, corpus, ties)
    found = ProbeResults()
    _probe(ServedSubject(plan, attached, MERGED, corpus, trained.base_parameters, merge_error=change), found, report)
    if plan.method.lossy_merge:
        found.warnings.append(
            f"the merge is lossy: outputs change by {change:.2g}, and no file of a base model holds it"
        )
    elif (lacks := lacking_room(attached.model, folder.parent)) is not None:
        found.warnings.append(f"the merged model was not saved and loaded again: {lacks}")
    else:
        report("saving the merged model")
        return found, save_merged(attached, corpus, ties, folder)
    return found, None


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
