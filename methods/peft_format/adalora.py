"""AdaLoRA in peft's format. In its final form it is a LoRA whose ranks differ, and is written as that.

A checkpoint that peft's own AdaLoRA wrote holds triplets instead, those that were pruned left out. It can only be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from methods.adalora import Adalora
from methods.checkpoint import PeftCheckpoint, expect
from methods.lora import LowRankAttached
from methods.peft_format.config import refuse_unknown
from methods.peft_format.low_rank import Terms, empty_products, low_rank_checkpoint, rescaled, split
from methods.peft_format.targets import target_projections
from methods.projections import Projection

PEFT_TYPE = "ADALORA"
SETTINGS: dict[str, tuple[str, object]] = {
    "total_step": ("total_steps", None),
    "target_r": ("rank", 8),
    "init_r": ("start_rank", 12),
    "tinit": ("initial_steps", 0),
    "tfinal": ("final_steps", 0),
    "deltaT": ("interval", 1),
    "lora_alpha": ("alpha", 8),
    "orth_reg_weight": ("penalty_weight", 0.5),
    "beta1": ("beta1", 0.85),
    "beta2": ("beta2", 0.85),
}
"""Our settings by peft's keys, with peft's defaults."""
UNUSED_KEYS = ("r", "use_rslora", "alpha_pattern", "lora_dropout", "init_lora_weights")
"""Keys that peft's AdaLoRA inherits from its LoRA and does not use at inference."""


def to_peft(attached: LowRankAttached) -> PeftCheckpoint:
    """A and B of every target module, lambda folded into B."""
    method = cast(Adalora, attached.method)
    return low_rank_checkpoint(attached, Terms(method.alpha, method.start))


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: Adalora | None
) -> tuple[Adalora, Mapping[str, Tensor]]:
    """The inverse of `to_peft`; a ``method`` of None is read from the configuration of peft's own AdaLoRA.

    Raises:
        MethodError: the tensors do not fit, or the configuration asks for what is not supported here.
    """
    if method is not None:
        return method, split(checkpoint.tensors, method.projections(model), checkpoint.ranks, method.name)
    config = checkpoint.config
    refuse_unknown(config, (*SETTINGS, *UNUSED_KEYS, "target_modules", "rank_pattern"))
    roles, matched = target_projections(model, config)
    settings = {ours: config.get(theirs, default) for theirs, (ours, default) in SETTINGS.items()}
    method = Adalora.from_settings({**settings, "targets": roles})
    # peft adds 1e-5 to the rank that it divides by, so that it is never zero
    factor = method.start / (method.start + 1e-5)
    tensors = empty_products(method.projections(model))
    for label, (a, values, b) in _triplets(checkpoint, matched, method).items():
        tensors |= {f"{label}.A": a, f"{label}.B": rescaled(b.float() * values.float().t(), factor)}
    return method, tensors


def _triplets(
    checkpoint: PeftCheckpoint, projections: Sequence[Projection], method: Adalora
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """A [r, in], singular values [r, 1] and B [out, r] of each projection by label, r being the triplets it kept.

    Raises:
        MethodError: a tensor is missing, surplus or of another shape.
    """
    pattern = cast("Mapping[str, Sequence[bool]]", checkpoint.config.get("rank_pattern") or {})
    names = {p.label: {part: f"base_model.model.{p.path}.lora_{part}" for part in "AEB"} for p in projections}
    shapes: dict[str, tuple[int, ...]] = {}
    for p in projections:
        kept = pattern.get(f"{p.path}.lora_E")  # which of the first were kept; no pattern before any was pruned
        rank = method.start if kept is None else sum(kept)
        a, values, b = names[p.label].values()
        shapes |= {a: (rank, p.in_features), values: (rank, 1), b: (p.out_features, rank)}
    expect(checkpoint.tensors, shapes, method.name)
    tensors = checkpoint.tensors
    return {label: (tensors[own["A"]], tensors[own["E"]], tensors[own["B"]]) for label, own in names.items()}
