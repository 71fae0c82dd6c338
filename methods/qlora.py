"""QLoRA: LoRA over a base quantized to 4 bits (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314).

Every linear layer of the decoder is stored in NF4 (section 3), and its block constants are quantized again (double
quantization). The weight is dequantized at each product, and LoRA trains beside it in the model's own dtype. A merge
adds the change to the dequantized weight and quantizes the sum, which rounds it: the merge is lossy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from methods.architectures import ALL_LINEAR, architecture_of
from methods.base import Attached, Count, Method
from methods.errors import Unsupported
from methods.lora import Lora, attach_lora, expect_branches, restore_branches
from methods.packed import compute_portably
from methods.projections import Projection, linear_shape
from methods.validators import Fraction, Names, PositiveFloat, PositiveInt


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # heavy, and not available on every platform
    except ImportError as error:
        raise Unsupported(f"qlora needs bitsandbytes, which can't be imported: {error}") from error
    return bitsandbytes


@dataclass(frozen=True, kw_only=True)
class Qlora(Method):
    """`Lora` over a base that `attach` quantizes in place. `detach` leaves the base in 4 bits."""

    name: ClassVar[str] = "qlora"
    identity: ClassVar[bool] = False  # the LoRA part changes nothing at first, the quantization does
    mergeable: ClassVar[bool] = True
    lossy_merge: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("bitsandbytes",)

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    targets: Names = ("q", "v")
    rslora: bool = False
    dropout: Fraction = 0.0
    double_quantization: bool = True

    @property
    def lora(self) -> Lora:
        """The same settings without the quantization."""
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
        quantize(model, self.double_quantization)
        return attach_lora(self, self.lora, model, fold_into_nf4)

    def _restore(self, model: PreTrainedModel, shipped: Mapping[str, Tensor]) -> Attached:
        projections = self.lora.projections(model)
        expect_branches(self, projections, shipped)  # before the base is changed
        quantize(model, self.double_quantization)
        return restore_branches(self, model, projections, shipped, self.lora.scale, fold_into_nf4)


def quantize(model: PreTrainedModel, double_quantization: bool) -> None:
    """Replaces every linear layer of the decoder by an NF4 layer, in place. Embeddings and output head stay."""
    bnb = _bitsandbytes()
    for projection in architecture_of(model).projections(model, [ALL_LINEAR]):
        base = model.get_submodule(projection.path)
        if not isinstance(base, bnb.nn.Linear4bit):
            model.set_submodule(projection.path, _nf4_layer(base, bnb, model.dtype, double_quantization))


def _nf4_layer(base: nn.Module, bnb: Any, dtype: torch.dtype, double_quantization: bool) -> nn.Module:
    rows, columns = linear_shape(base)
    weight = cast(Tensor, base.weight).data
    layer = bnb.nn.Linear4bit(columns, rows, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
    dense = weight.t() if isinstance(base, Conv1D) else weight
    _set_weight(layer, dense, bnb, double_quantization)
    layer.bias = base.bias
    compute_portably(layer)
    layer.train(base.training)
    return cast(nn.Module, layer)


def _set_weight(layer: Any, dense: Tensor, bnb: Any, double_quantization: bool) -> None:
    """Quantizes ``dense`` [out, in] and puts it into the layer, as ``Linear4bit.to(device)`` of the library does."""
    packed, state = bnb.functional.quantize_4bit(
        dense.contiguous(), compress_statistics=double_quantization, quant_type="nf4"
    )
    layer.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        blocksize=state.blocksize,
        compress_statistics=double_quantization,
        quant_type="nf4",
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state


def fold_into_nf4(base: nn.Module, projection: Projection, delta: Tensor) -> None:
    """W = quantize(dequantize(W) + delta) on the rows of one projection."""
    bnb = _bitsandbytes()
    state = cast(Any, base.weight).quant_state
    dense = bnb.functional.dequantize_4bit(cast(Tensor, base.weight).data, state).float()
    view = projection.pick(dense.t())
    view += projection.shape(delta.t())
    _set_weight(base, dense.to(state.dtype), bnb, state.nested)
