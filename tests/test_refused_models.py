"""Models that have the names of a family, and not what those stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, ImageGPTConfig, PreTrainedModel
from transformers.models.imagegpt.modeling_imagegpt import ImageGPTForCausalImageModeling

import methods
from methods import Method, MethodError
from methods.adapter import Adapter
from methods.architectures import architecture_of, sizes_of
from methods.lora import Lora
from methods.prefix_tuning import PrefixTuning
from tests.families import FAMILIES, GPT2, GROUPED, build
from tests.test_conformance import logits, tokens

WHOLE = {"hidden_size": 32, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4}
NAMESAKES: dict[str, tuple[dict[str, Any], str]] = {
    "beam": ({**GROUPED, "head_dim": 8}, "besides: self_attn.gate_proj"),
    "doge": (GROUPED, "besides: self_attn.dt_proj"),
    "bart": ({**WHOLE, "d_model": 32, "vocab_size": 64}, "besides: encoder_attn.k_proj"),
    "qwen3_5_text": (
        {**GROUPED, "head_dim": 16, "layer_types": ["full_attention"] * 3},
        r"layers.0.self_attn.q_proj is \(128, 32\) and not \(64, 32\)",
    ),
    "gpt2": ({**GPT2, "add_cross_attention": True}, "besides: crossattention.c_attn"),
}
"""Types with the names of a family and more of them, or other shapes, and what tells them apart."""


def small(kind: str, settings: dict[str, Any]) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    return model


@pytest.mark.parametrize("method", [Lora(targets=("all-linear",)), PrefixTuning()])
@pytest.mark.parametrize("kind", NAMESAKES)
def test_a_model_of_another_build_is_refused(kind: str, method: Method) -> None:
    """Linear modules that no role names, or shapes that are not those of plain attention: one line that names them."""
    settings, reason = NAMESAKES[kind]
    with pytest.raises(MethodError, match=f"belongs to no known model family.*{reason}") as caught:
        method.check(small(kind, settings))
    assert "\n" not in str(caught.value)


def test_layers_that_are_one_module_are_refused() -> None:
    """What stands in two places would get two methods, one inside the other."""
    model = build("llama")
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    layers[1] = layers[0]
    with pytest.raises(MethodError, match="share modules"):
        Lora().attach(model)


def test_a_fused_matrix_of_an_unknown_layout_is_adapted_whole_or_not_at_all() -> None:
    """ImageGPT has GPT-2's names: nobody has said which rows are its queries, but any row of the whole can be had."""
    sizes = {key: value for key, value in GPT2.items() if "token" not in key}
    model = ImageGPTForCausalImageModeling(ImageGPTConfig(**sizes))
    for targets in (("q", "v"), ("k", "down")):
        with pytest.raises(MethodError, match=f"'{targets[0]}': which rows of c_attn are .* imagegpt model.*qkv"):
            Lora(targets=targets).check(model)
    for whole in ("qkv", "c_attn", "all-linear"):
        Lora(targets=(whole,)).check(model)
    Adapter().attach(model)


def test_sizes_are_those_of_the_weights() -> None:
    """What a configuration says for other models is not believed, and one head of keys is found where there is one."""
    foreign = {**GPT2, "num_key_value_heads": 2, "head_dim": 4}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **foreign)).eval()
    assert (sizes_of(model).kv_heads, sizes_of(model).head_size) == (4, 8)
    PrefixTuning(num_virtual_tokens=3).attach(model)
    assert logits(model, tokens()).isfinite().all()
    assert sizes_of(build("gpt_bigcode")).kv_size == 8
    assert sizes_of(build("gpt_bigcode-heads")).kv_size == 32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_in_a_model_changes_none_of_its_sizes(family: str) -> None:
    """Layers, heads and sizes are those of the base while a method stands in the place of its modules, and after."""
    model = build(family)
    before = architecture_of(model)
    for method in (Lora(rank=2, targets=("all-linear",)), Adapter(bottleneck=4)):
        attached = method.attach(model)
        assert architecture_of(model) == before
        assert sizes_of(model) == before
        attached.detach()
        assert architecture_of(model) == before


def test_a_checkpoint_of_one_layout_is_none_of_the_other(tmp_path: Path) -> None:
    """GPT-2 and GPT-BigCode have the same names and may have the same shapes, and are different bases."""
    folder = Lora(rank=2).attach(build("gpt2")).save(tmp_path)
    with pytest.raises(MethodError, match="made on another base"):
        methods.load(build("gpt_bigcode-heads"), folder)
