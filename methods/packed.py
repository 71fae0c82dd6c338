"""Weights that are stored as something else than their values: in 4 or 8 bits, packed or as integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def can_train(weight: Tensor) -> bool:
    """Whether the numbers of ``weight`` are its values: not if it is packed, or in integers or 8 bits."""
    packed = getattr(weight, "quant_state", None) is not None
    return weight.is_floating_point() and weight.dtype.itemsize > 1 and not packed


def compute_portably(layer: Any) -> None:
    """Keeps a 4-bit layer as it is packed.

    On processors with AVX512-BF16 the library would repack the weight in place at the first evaluation: it rounds the
    block constants to bfloat16, undoes double quantization and can't go back to training. What a model computes must
    not depend on whether it was evaluated before, so the portable path is used everywhere.
    """
    layer.support_avx512bf16_for_cpu = False
