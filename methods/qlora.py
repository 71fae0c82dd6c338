"""QLoRA: LoRA over a base quantised to 4 bits (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

Every linear layer of the decoder is stored in NF4 (section 3), its block constants quantised again (double
quantisation), and dequantised at each product; LoRA trains beside it in the model's own dtype. Merging adds the change
to the dequantised weight and quantises the sum again, which rounds it: the merge is lossy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.anatomy import ALL_LINEAR, anatomy_of
from methods.base import Attached, Count, Method
from methods.errors import Unsupported
from methods.lora import Lora, attach_lora, expect_branches, restore_branches
from methods.projections import Projection, linear_shape
from methods.validators import Fraction, Names, PositiveFloat, PositiveInt


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # heavy, and not to be had on every platform
    except ImportError as error:
        raise Unsupported(f"qlora needs bitsandbytes, which can't be imported: {error}") from error
    return bitsandbytes


@dataclass(frozen=True, kw_only=True)
class Qlora(Method):
    """`Lora` over a base that `attach` quantises in place; detaching leaves the 4-bit base behind."""

    name: ClassVar[str] = "qlora"
    identity: ClassVar[bool] = False  # the LoRA part changes nothing at first, the quantisation does
    mergeable: ClassVar[bool] = True
    lossy_merge: ClassVar[bool] = True

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Names = ("q", "v")
    rslora: bool = False
    dropout: Fraction = 0.0
    double_quantisation: bool = True

    @property
    def lora(self) -> Lora:
        """The same settings without the quantisation."""
        return Lora(rank=self.rank, alpha=self.alpha, targets=self.targets, rslora=self.rslora, dropout=self.dropout)

    @property
    def size(self) -> int:
        return self.rank

    def check(self, model: PreTrainedModel) -> None:
        _bitsandbytes()
        self.lora.check(model)

    def count(self, model: PreTrainedModel) -> Count:
        return self.lora.count(model)

    def _attach(self, model: PreTrainedModel) -> Attached:
        quantise(model, self.double_quantisation)
        return attach_lora(self, self.lora, model, fold_into_nf4)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        projections = self.lora.projections(model)
        expect_branches(self, projections, shipped)  # before the base is changed
        quantise(model, self.double_quantisation)
        return restore_branches(self, model, projections, shipped, self.lora.scale, fold_into_nf4)


def quantise(model: PreTrainedModel, double_quantisation: bool) -> None:
    """Replaces every linear layer of the decoder by an NF4 one, in place; embeddings and output head stay."""
    bnb = _bitsandbytes()
    for projection in anatomy_of(model).projections(model, [ALL_LINEAR]):
        base = model.get_submodule(projection.path)
        if not isinstance(base, bnb.nn.Linear4bit):
            model.set_submodule(projection.path, _nf4_layer(base, bnb, model.dtype, double_quantisation))


def _nf4_layer(base: nn.Module, bnb: Any, dtype: torch.dtype, double_quantisation: bool) -> nn.Module:
    rows, columns = linear_shape(base)
    weight = cast(Tensor, base.weight).data
    layer = bnb.nn.Linear4bit(columns, rows, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
    dense = weight.t() if isinstance(base, Conv1D) else weight
    _set_weight(layer, dense, bnb, double_quantisation)
    layer.bias = base.bias
    # On processors with AVX512-BF16 the library would repack the weight at the first evaluation: in place, with block
    # constants rounded to bfloat16, double quantisation undone and no way back to training. Figures of one state must
    # not depend on whether another was measured before, so the portable path is used everywhere.
    layer.support_avx512bf16_for_cpu = False
    layer.train(base.training)
    return cast(nn.Module, layer)


def _set_weight(layer: Any, dense: Tensor, bnb: Any, double_quantisation: bool) -> None:
    """Quantises ``dense`` [out, in] into the layer, and leaves there all that the library's own ``to(device)`` does."""
    packed, state = bnb.functional.quantize_4bit(
        dense.contiguous(), compress_statistics=double_quantisation, quant_type="nf4"
    )
    layer.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=double_quantisation,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state


def fold_into_nf4(base: nn.Module, projection: Projection, delta: Tensor) -> None:
    """W = quantise(dequantise(W) + delta) on one projection's rows."""
    bnb = _bitsandbytes()
    state = cast(Any, base.weight).quant_state
    dense = bnb.functional.dequantize_4bit(cast(Tensor, base.weight).data, state).float()
    view = dense.unflatten(0, (projection.groups, projection.parts, -1))[:, projection.part]
    view += delta.unflatten(0, (projection.groups, -1))
    _set_weight(base, dense.to(state.dtype), bnb, state.nested)
