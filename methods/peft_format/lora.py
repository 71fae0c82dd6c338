"""LoRA in peft's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from methods.checkpoint import PeftCheckpoint
from methods.errors import MethodError
from methods.lora import Lora, LowRankAttached
from methods.peft_format.config import INITS_THAT_KEEP_THE_BASE, USE_PEFT, refuse_unknown
from methods.peft_format.low_rank import Terms, low_rank_checkpoint, rescaled, split, terms_at
from methods.peft_format.targets import target_projections

PEFT_TYPE = "LORA"
READ = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern",
    "init_lora_weights",
}  # fmt: skip
"""Keys of peft's configuration that `from_peft` reads."""


def terms_of(lora: Lora) -> Terms:
    """The settings that peft has too."""
    return Terms(lora.alpha, lora.rank, lora.rslora, lora.dropout)


def to_peft(attached: LowRankAttached) -> PeftCheckpoint:
    """A and B of every target module."""
    return low_rank_checkpoint(attached, terms_of(cast(Lora, attached.method)))


def from_peft(
    model: PreTrainedModel, checkpoint: PeftCheckpoint, method: Lora | None
) -> tuple[Lora, Mapping[str, Tensor]]:
    """The inverse of `to_peft`; a ``method`` of None is read from the configuration, as in checkpoints of peft's own.

    Raises:
        MethodError: the tensors do not fit, or the configuration asks for what is not supported here.
    """
    if method is not None:
        return method, split(checkpoint.tensors, method.projections(model), checkpoint.ranks, method.name)
    config = checkpoint.config
    refuse_unknown(config, READ)
    if (init := config.get("init_lora_weights", True)) not in INITS_THAT_KEEP_THE_BASE:
        raise MethodError(f"init_lora_weights '{init}' of the checkpoint changes the base weights; {USE_PEFT}")
    roles, matched = target_projections(model, config)
    method = Lora.from_settings(
        {
            "rank": config.get("r", 8),
            "alpha": config.get("lora_alpha", 8),
            "targets": roles,
            "rslora": bool(config.get("use_rslora", False)),
            "dropout": config.get("lora_dropout", 0.0),
        }
    )
    terms = {projection.label: terms_at(config, projection.path) for projection in matched}
    projections = method.projections(model)
    ranks = {p.label: terms[p.label].rank if p.label in terms else 0 for p in projections}
    tensors = split(checkpoint.tensors, projections, ranks, method.name)
    for label, own in terms.items():  # peft may have a scale per module, `Lora` has one for all
        tensors[f"{label}.B"] = rescaled(tensors[f"{label}.B"], own.scale / method.scale)
    return method, tensors
