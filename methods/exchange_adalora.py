"""AdaLoRA checkpoints as Hugging Face peft (https://github.com/huggingface/peft) writes them: kept triplets alone.

Over here they are only read. Ours, in final form, is a LoRA whose ranks differ, and is written as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor

from methods.anatomy import Projection
from methods.checkpoint import PeftForm, expect
from methods.exchange import refuse_unknown

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
IDLE = ("r", "use_rslora", "alpha_pattern", "lora_dropout", "init_lora_weights")
"""Keys of peft's LoRA that its AdaLoRA inherits and, in serving form, does not use."""


def peft_settings(config: Mapping[str, object]) -> dict[str, object]:
    """Our settings, but for the targets.

    Raises:
        MethodError: the configuration asks for what ours lack.
    """
    refuse_unknown(config, (*SETTINGS, *IDLE, "target_modules", "rank_pattern"))
    return {ours: config.get(theirs, usual) for theirs, (ours, usual) in SETTINGS.items()}


def kept_triplets(
    form: PeftForm, projections: Sequence[Projection], start: int, method: str
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """A [r, in], singular values [r, 1] and B [out, r] of each projection by label; ``start`` is r before any pruning.

    Raises:
        MethodError: a tensor is missing, surplus or of another shape.
    """
    pattern = cast("Mapping[str, Sequence[bool]]", form.config.get("rank_pattern") or {})
    names = {p.label: {part: f"base_model.model.{p.path}.lora_{part}" for part in "AEB"} for p in projections}
    shapes: dict[str, tuple[int, ...]] = {}
    for p in projections:
        kept = pattern.get(f"{p.path}.lora_E")  # which of the first were kept; no pattern before any was pruned
        rank = start if kept is None else sum(kept)
        a, values, b = names[p.label].values()
        shapes |= {a: (rank, p.in_features), values: (rank, 1), b: (p.out_features, rank)}
    expect(form.tensors, shapes, method)
    tensors = form.tensors
    return {label: (tensors[own["A"]], tensors[own["E"]], tensors[own["B"]]) for label, own in names.items()}
