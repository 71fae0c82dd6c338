"""What each method does to the structure of inference, as integers on a 4-layer Llama."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from bench.instruments.steps import PHASES
from bench.instruments.structure import Structure, StructureCounter
from methods.adapter import Adapter
from methods.base import Method
from methods.compat import cache_of
from methods.lora import Lora
from methods.p_tuning import PTuning
from methods.p_tuning_v2 import PTuningV2
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning

LAYERS, LENGTH, TOKENS = 4, 12, 5


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def structure(model: PreTrainedModel, phase: str) -> Structure:
    steps = PHASES[phase](model, torch.arange(3, 3 + LENGTH)[None])
    with StructureCounter() as counter:
        steps.run(1)
    return counter.result()


def attached(method: Method, merge: bool = False) -> PreTrainedModel:
    model = llama()
    handle = method.attach(model)
    handle.prepare_for_inference()
    if merge:
        handle.merge()
    return model


@pytest.mark.parametrize("phase", PHASES)
def test_merged_lora_is_the_base_model(phase: str) -> None:
    """Operations, products, both chains and FLOPs of merged LoRA are those of the control, each and all."""
    assert structure(attached(Lora(rank=4), merge=True), phase) == structure(llama(), phase)


@pytest.mark.parametrize(
    ("method", "matmuls", "critical_path"),
    [(Lora(rank=4), 4, 1), (Lora(rank=4, targets=("all-linear",)), 14, 4), (Adapter(bottleneck=4), 4, 4)],
)
def test_products_that_a_method_adds_to_each_layer(method: Method, matmuls: int, critical_path: int) -> None:
    """LoRA: two for each target, and one to the chain for each stage that has one; adapters: four, all in the chain."""
    base, found = structure(llama(), "decode"), structure(attached(method), "decode")
    added = (found.matmuls - base.matmuls, found.critical_path_matmuls - base.critical_path_matmuls)
    assert added == (matmuls * LAYERS, critical_path * LAYERS)


def test_adapters_are_serial_work() -> None:
    """Each layer's four extra products follow one another: products and chain grow by the same number."""
    base, adapted = structure(llama(), "decode"), structure(attached(Adapter(bottleneck=4)), "decode")
    assert adapted.matmuls - base.matmuls == adapted.critical_path_matmuls - base.critical_path_matmuls == 4 * LAYERS


def positions(method: Method, inside: Callable[[torch.nn.Module], torch.nn.Module]) -> tuple[list[int], int]:
    """Positions that reach a module of each layer at prefill, and the length of the cache after it."""
    model = attached(method)
    seen: list[int] = []
    for layer in model.model.layers:
        inside(layer).register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
    with torch.no_grad():
        cache = cache_of(model(input_ids=torch.arange(3, 3 + LENGTH)[None], use_cache=True))
    assert cache is not None
    return seen, cache.get_seq_length()


@pytest.mark.parametrize(
    ("method", "fed"),
    [
        (PrefixTuning(num_virtual_tokens=TOKENS), LENGTH),
        (PTuningV2(num_virtual_tokens=TOKENS), TOKENS + LENGTH),
        (PromptTuning(num_virtual_tokens=TOKENS), TOKENS + LENGTH),
        (PTuning(num_virtual_tokens=TOKENS), TOKENS + LENGTH),
    ],
)
def test_queries_and_cache_of_virtual_tokens(method: Method, fed: int) -> None:
    """A prefix has keys and values only: T queries and T fed forward. Prompts of any kind: k + T. The cache: k + T."""
    for module in (lambda layer: layer.self_attn.q_proj, lambda layer: layer.mlp.up_proj):
        assert positions(method, module) == ([fed] * LAYERS, TOKENS + LENGTH)


def test_deep_prompts_replace_what_the_layer_below_made() -> None:
    """Every layer finds its own k vectors in front, whatever came out of the layer below."""
    model = llama()
    handle = PTuningV2(num_virtual_tokens=TOKENS).attach(model)
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0, :TOKENS]))
    with torch.no_grad():
        model(input_ids=torch.arange(3, 3 + LENGTH)[None])
    assert torch.equal(torch.stack(seen), handle.trained()["prompts"])
