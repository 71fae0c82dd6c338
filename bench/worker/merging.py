"""The merged state, observed on the model that a user gets: from the merge, and from the files that it is saved to.

A merge is wrong where one weight of the base stands in two places (tied embeddings) and only one of them was adapted.
It shows in the outputs at once, or only after the model was saved and loaded, which ties the places again.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bench.config.sources import ModelSource
from bench.worker.outputs import ROUNDING, distance, logits
from bench.workload.corpus import Corpus
from bench.workload.models import load_model
from bench.workload.plan import Plan
from bench.workload.resolve import reason_of
from bench.workload.subject import parameter_count
from bench.workload.training import weight_tensors
from methods import Attached, Unsupported

GIB = 2**30


@dataclass(frozen=True)
class Tie:
    """A parameter of the base that stands in several places."""

    names: tuple[str, ...]
    parameter: nn.Parameter
    """As it was before the merge, which gives the places another one."""


def ties_of(model: PreTrainedModel) -> list[Tie]:
    """Every parameter that has more than one name in ``model``."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [Tie(tuple(several), parameter) for parameter, several in names.items() if len(several) > 1]


def merge(plan: Plan, attached: Attached, corpus: Corpus, ties: Sequence[Tie]) -> float:
    """Merges the method, and returns by how much the outputs on held-out text changed.

    Raises:
        Unsupported: there is no merged state.
        WrongMerge: there is one, and its outputs are others.
    """
    if not attached.method.mergeable:
        raise Unsupported("nothing that could be merged into the base weights")
    before = logits(attached.model, corpus)
    attached.merge()
    attached.model.eval()
    error, tolerance = distance(before, logits(attached.model, corpus)), ROUNDING[plan.model.dtype]
    if not (error <= tolerance or attached.method.lossy_merge):  # an output that is not a number is no match either
        cause = _cause(attached.model, ties)
        reason = f"merged outputs differ from unmerged ones by {error:.2g}, more than {tolerance:.0e}{cause}"
        raise WrongMerge(reason, error)
    return error


class WrongMerge(Unsupported):
    """A merge that changed the outputs."""

    def __init__(self, reason: str, error: float) -> None:
        super().__init__(reason)
        self.error = error


def _cause(model: PreTrainedModel, ties: Sequence[Tie]) -> str:
    """What the merge did to weights that stand in several places, to end a reason with; empty if it left them alone."""
    merged = dict(model.named_parameters(remove_duplicate=False))
    for tie in ties:
        now = {merged[name] for name in tie.names if name in merged}
        first, *others = tie.names
        if len(now) > 1:
            return f": {first} and {', '.join(others)} are one weight of the base, and the merge made them several"
        if any(not torch.equal(parameter, tie.parameter) for parameter in now):
            return f": the merge changed {first}, and with it {', '.join(others)}, which is the same weight"
    return ""


def lacking_room(model: PreTrainedModel, folder: Path) -> str | None:
    """What is missing to save ``model`` into ``folder``, None if there is room."""
    needed = sum(tensor.nbytes for tensor in weight_tensors(model))
    free = shutil.disk_usage(folder).free
    return None if needed <= free else f"it takes {needed / GIB:.1f} GiB, and TMPDIR has room for {free / GIB:.1f}"


@dataclass(frozen=True)
class MergedOutputs:
    """What a merged model must be once it is loaded again."""

    logits: Tensor
    parameters: int
    cause: str
    """What the merge did to weights that stand in several places."""


def save_merged(attached: Attached, corpus: Corpus, ties: Sequence[Tie], folder: Path) -> MergedOutputs:
    """Saves the merged model as its user would, and returns what it must be once it is loaded again.

    Raises:
        Unsupported: it can't be saved.
    """
    model = attached.model
    found = MergedOutputs(logits(model, corpus), parameter_count(model.parameters()), _cause(model, ties))
    try:
        model.save_pretrained(folder)
    except Exception as error:  # transformers raises errors of every kind
        raise Unsupported(f"the merged model can't be saved: {reason_of(error)}") from error
    return found


def check_saved(plan: Plan, saved: MergedOutputs, corpus: Corpus, folder: Path) -> None:
    """Loads the merged model from its files, as a base model, and compares its size and outputs.

    Raises:
        Unsupported: it can't be loaded, or it is another model than the one that was saved.
    """
    source = dataclasses.replace(
        plan.model, source=ModelSource.pretrained, path=str(folder), revision=None, distribution=None
    )
    try:
        model = load_model(source, plan.torch_device, plan.seed)
    except Exception as error:
        raise Unsupported(f"the merged model can't be loaded from its files: {reason_of(error)}") from error
    change, tolerance = distance(saved.logits, logits(model, corpus)), ROUNDING[plan.model.dtype]
    if not change <= tolerance:
        raise Unsupported(
            f"saved and loaded, the merged model's outputs differ by {change:.2g}, more than {tolerance:.0e}"
            f"{saved.cause}"
        )
    if (count := parameter_count(model.parameters())) != saved.parameters:
        raise Unsupported(
            f"saved and loaded, the merged model has {count} parameters instead of {saved.parameters}{saved.cause}"
        )
