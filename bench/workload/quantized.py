"""Checkpoints whose weights are stored quantized: their layout without weights, and the shapes that they stand for."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils import quantization_config

from bench.workload.weights import shape_of
from methods.packed import compute_portably
from methods.projections import linear_shape

FOUR_BITS = ("nf4", "fp4")
EIGHT_BITS = "llm_int8"
STATE = ".quant_state.bitsandbytes__"
"""Part of the name of the tensor that describes a packed weight."""
BLOCK, OUTER_BLOCK = 64, 256
"""Weights that share a constant, and constants that share one: what transformers packs and unpacks with."""
CODES, OUTER_CODES = 16, 256
"""Entries of the tables that 4-bit and 8-bit numbers are looked up in."""


def quantization(architecture: PreTrainedConfig) -> Any:
    """How the checkpoint is quantized, in transformers' words; None where it is not."""
    found = getattr(architecture, "quantization_config", None)
    if found is None or not AutoHfQuantizer.supports_quant_method(found):
        return None
    return AutoHfQuantizer.from_config(found, pre_quantized=True)


def method_of(quantizer: Any) -> str:
    """``nf4``, ``fp4``, ``llm_int8`` (bitsandbytes), ``gptq``, ..."""
    config = quantizer.quantization_config
    kind = config.quantization_method() if hasattr(config, "quantization_method") else config.quant_method
    return str(getattr(kind, "value", kind))  # of an enumeration, or as the checkpoint writes it


def base_parameter_count(model: PreTrainedModel) -> int:
    """Parameters of a base model, a tied one once. Quantized ones count as the weights that they stand for."""
    if getattr(model, "is_quantized", False):
        with unset_fake_temporarily(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model.config)
    return sum(parameter.numel() for parameter in model.parameters())


def unknown_packing(model: PreTrainedModel) -> str | None:
    """How a base is quantized whose parameters can't be counted where they are; None where they can."""
    quantizer = quantization(model.config) if getattr(model, "is_quantized", False) else None
    kind = None if quantizer is None else method_of(quantizer)
    return None if kind in (None, EIGHT_BITS, *FOUR_BITS) else kind


def logical_shapes(weights: Mapping[str, Any], method: str | None) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a checkpoint's weights by name, as they are once dequantized; None of a kind that is not known here."""
    if method is None:
        return {name: shape_of(weight) for name, weight in weights.items()}
    if method == EIGHT_BITS:
        constants = ("SCB", "weight_format")
        return {name: shape_of(w) for name, w in weights.items() if not name.endswith(constants)}
    if method not in FOUR_BITS:
        return None
    packed = {name.partition(STATE)[0]: _state(weight) for name, weight in weights.items() if STATE in name}
    plain = {name: shape_of(w) for name, w in weights.items() if name.rpartition(".")[0] not in packed}
    plain = {name: shape for name, shape in plain.items() if STATE not in name}
    return plain | {name: tuple(state["shape"]) for name, state in packed.items()}


def _state(weight: Any) -> dict[str, Any]:
    """What bitsandbytes notes of a packed weight: JSON in a tensor of bytes."""
    found: dict[str, Any] = json.loads(bytes(weight[:].tolist()))
    return found


def pack(model: PreTrainedModel, quantizer: Any, stored: torch.dtype) -> None:
    """Lays a model without data out as it is once its 4-bit checkpoint is loaded, in place.

    ``stored``: the dtype that the weights had before they were packed.
    """
    bnb: Any = importlib.import_module("bitsandbytes")  # it has no types
    with unset_fake_temporarily(), torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(model.config)
        quantizer.preprocess_model(model=skeleton, device_map={"": "cpu"})
        found = {name: one for name, one in skeleton.named_modules() if isinstance(one, bnb.nn.Linear4bit)}
    for name, like in found.items():
        model.set_submodule(name, _packed(model.get_submodule(name), like, bnb, quantizer, stored))
    mark_quantized(model)
    quantizer.postprocess_model(model)


def mark_quantized(model: Any) -> None:
    """Says of a model without data what transformers says of one that it has loaded."""
    model.is_quantized = True


def _packed(dense: nn.Module, like: Any, bnb: Any, quantizer: Any, stored: torch.dtype) -> Any:
    """The 4-bit layer in the place of ``dense``, as bitsandbytes makes it of the tensors of a file."""
    settings = quantizer.quantization_config
    rows, columns = linear_shape(dense)
    place: Any = {"device": next(dense.parameters()).device}
    layer = bnb.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=like.compute_dtype, quant_type=like.weight.quant_type, device="meta"
    )
    blocks = -(-rows * columns // BLOCK)
    nested = settings.bnb_4bit_use_double_quant
    state = bnb.functional.QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32, **place),
        shape=torch.Size((rows, columns)),
        code=torch.empty(CODES, **place),
        blocksize=BLOCK,
        quant_type=like.weight.quant_type,
        dtype=stored,
        offset=torch.empty((), **place) if nested else None,
        state2=bnb.functional.QuantState(
            absmax=torch.empty(-(-blocks // OUTER_BLOCK), **place),
            code=torch.empty(OUTER_CODES, **place),
            blocksize=OUTER_BLOCK,
            dtype=torch.float32,
        )
        if nested
        else None,
    )
    storage = settings.bnb_4bit_quant_storage
    data = torch.empty(-(-rows * columns // (2 * storage.itemsize)), 1, dtype=storage, **place)
    layer.weight = bnb.nn.Params4bit(
        data,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=nested,
        quant_type=state.quant_type,
        quant_storage=storage,
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state
    layer.bias = dense.bias
    compute_portably(layer)
    return layer.train(dense.training)


def dequantized() -> dict[str, Any]:
    """The argument that has transformers unpack a gguf file; releases without it always do."""
    kind = getattr(quantization_config, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def stored_types(file: Path) -> str:
    """In which types a gguf file stores its tensors, and how many in each: ``210 tensors as Q4_1, 62 as F32``."""
    gguf: Any = importlib.import_module("gguf")  # it has no types
    counts = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors)
    return ", ".join(
        f"{count}{' tensors' if number == 0 else ''} as {name}"
        for number, (name, count) in enumerate(counts.most_common())
    )


def make_portable(model: PreTrainedModel) -> None:
    """See `methods.packed.compute_portably`."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            compute_portably(module)


def transposed(model: PreTrainedModel) -> set[str]:
    """Names of the weights that are stored [in, out] in the model, and [out, in] once they are packed."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
