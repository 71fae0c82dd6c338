"""Caches of every kind: full attention, windows, recurrent states, hybrids, and none."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
import transformers
from packaging.version import parse
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.config.compose import compose_run
from bench.config.schema import CacheKind, Execution, Runtime
from bench.instruments.cache import attention_lengths, cache_bytes
from bench.instruments.steps import NO_CACHE, Decode, NoCache, Prefill, filled_cache
from bench.probes import cache as cache_probe
from bench.probes import latency as latency_probe
from bench.probes import structure as structure_probe
from bench.records.record import CONTROL, UNMERGED, Measurement, Missing
from bench.worker import latency
from bench.worker.probes import _unseen
from bench.workload.corpus import Corpus
from bench.workload.plan import Plan, read_plan
from bench.workload.subject import BaseSubject
from methods import Unsupported
from methods.prefix_tuning import PrefixTuning

LAYERS, LENGTH, WINDOW = 4, 12, 6
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
POSITION = 2 * 2 * 8 * 4
"""Bytes of one position of one layer: keys and values of two heads of 8."""
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8}
CACHE_OF_STATES = parse(transformers.__version__) >= parse("5.24")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("llama", {}),
    "window": ("mistral", {"sliding_window": WINDOW}),
    "both": ("gemma2", {"sliding_window": WINDOW, "head_dim": 8}),
    "convolution": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "recurrent": ("mamba", {"state_size": 4}),
    "hybrid": ("nemotron_h", {**MAMBA, "layer_types": ["mamba", "attention", "mlp", "mamba"], "head_dim": 8}),
    "in one": ("falcon_h1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8, "head_dim": 8}),
}
STATIC = Runtime("eager", Execution.eager, CacheKind.static)
PROMPT = torch.arange(3, 3 + LENGTH)[None]


def model(kind: str) -> PreTrainedModel:
    if kind in ("recurrent", "hybrid") and not CACHE_OF_STATES:
        pytest.skip("here transformers has another kind of cache for these models, and other names for their layers")
    family, settings = KINDS[kind]
    return of(family, settings)


def of(family: str, settings: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **settings})).eval()


def no_cache() -> PreTrainedModel:
    return of("openai-gpt", {"n_embd": 32, "n_layer": 2, "n_head": 4})


def plan(*overrides: str) -> Plan:
    return read_plan(compose_run(["method=full", f"workload.prompt_lengths=[{LENGTH}]", *overrides]).cells[0])


def subject(base: PreTrainedModel, batch: int = 1) -> BaseSubject:
    ids = torch.arange(3, 63).repeat(4)[None]
    return BaseSubject(plan(f"workload.batch_sizes=[{batch}]"), base, Corpus(ids, ids, 0, "", {}))


def outputs(steps: Decode, count: int) -> list[torch.Tensor]:
    """Logits of decode steps one after another."""
    made: Any = [steps.once() for _ in range(count)]
    return [one.logits for one in made]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_block_of_steps_starts_from_the_same_state(kind: str) -> None:
    """Whatever the cache is made of, after a reset the same steps give the same logits, bit for bit, again and again.

    The first of them are those of a pass over the whole text without a cache.
    """
    base = model(kind)
    steps = Decode(base, PROMPT)
    first = outputs(steps, 9)  # more than a window
    for _ in range(2):
        steps.reset()
        again = outputs(steps, 9)
        assert all(map(torch.equal, first, again))
    whole = base(input_ids=torch.cat([PROMPT, *[PROMPT[:, -1:]] * 9], dim=1), use_cache=False).logits[:, LENGTH:]
    torch.testing.assert_close(torch.cat(first, dim=1), whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_recurrent_state_keeps_its_address_over_a_reset() -> None:
    """Steps that a graph has captured read and write it there; its values are those of before."""
    steps = Decode(model("hybrid"), PROMPT)
    layer: Any = steps.cache.layers[0]
    state, before = layer.recurrent_states[0], layer.recurrent_states[0].clone()
    steps.run(3)
    assert not torch.equal(state, before)
    steps.reset()
    assert layer.recurrent_states[0] is state
    assert torch.equal(state, before)


@pytest.mark.parametrize("kind", ["convolution", "hybrid"])
@torch.no_grad()
def test_a_hybrid_has_a_static_cache(kind: str) -> None:
    """Its attention is laid out at its final length, its other states are used as they are: the logits are the same."""
    base = model(kind)
    dynamic, static = outputs(Decode(base, PROMPT), 3), outputs(steps := Decode(base, PROMPT, STATIC), 3)
    torch.testing.assert_close(torch.cat(static), torch.cat(dynamic), atol=2e-5, rtol=1e-4)
    steps.reset()
    torch.testing.assert_close(torch.cat(outputs(steps, 3)), torch.cat(dynamic), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_layer_with_attention_and_a_state_has_no_static_cache() -> None:
    """It is refused in a line and not given a wrong one."""
    with pytest.raises(Unsupported, match="attention and a recurrent state"):
        Decode(model("in one"), PROMPT, STATIC)


@pytest.mark.parametrize(
    ("kind", "lengths", "size"),
    [
        ("full", {"full": [LENGTH] * 4, "sliding": []}, 4 * LENGTH * POSITION),
        ("window", {"full": [], "sliding": [WINDOW - 1] * 4}, 4 * (WINDOW - 1) * POSITION),
        ("both", {"full": [LENGTH] * 2, "sliding": [WINDOW - 1] * 2}, 2 * (LENGTH + WINDOW - 1) * POSITION),
        # a convolution of width 3 over 32 channels
        ("convolution", {"full": [LENGTH] * 2, "sliding": []}, 2 * LENGTH * POSITION + 2 * 32 * 3 * 4),
        # of each layer a convolution of width 4 and a state of 4, over 48 channels
        ("recurrent", {"full": [], "sliding": []}, 4 * 48 * (4 + 4) * 4),
        # of each Mamba layer a convolution over 64 + 2 x 2 x 8 channels, and a state of 8 for 4 heads of 16
        ("hybrid", {"full": [LENGTH], "sliding": []}, LENGTH * POSITION + 2 * (96 * 4 + 4 * 16 * 8) * 4),
    ],
)
@torch.no_grad()
def test_lengths_and_bytes_by_hand(kind: str, lengths: dict[str, list[int]], size: int) -> None:
    """A window holds what it still sees, a state has its size, at any batch size; a short cache tells of a long one."""
    base = model(kind)
    cache = filled_cache(base, PROMPT)
    assert attention_lengths(cache) == lengths
    assert cache_bytes(cache) == size
    short = filled_cache(base, PROMPT[:, :2])
    room = len(lengths["sliding"]) * POSITION  # what the next token brings
    assert cache_bytes(short, LENGTH) == size + room
    found = {one.metric: one for one in cache_probe.measure_inference(subject(base, batch=3))}
    assert found["cache_bytes"] == Measurement("cache_bytes", size, CONTROL, 3, LENGTH)
    longest = {"cache_length": lengths["full"] + lengths["sliding"], "sliding_cache_length": lengths["sliding"]}
    for metric, values in longest.items():
        assert getattr(found[metric], "value", None) == max(values, default=None)


@torch.no_grad()
def test_a_model_without_a_cache_has_a_prefill_and_no_decode_step() -> None:
    """Prefill is measured, and what needs a cache is missing with the reason, in every probe."""
    base = no_cache()
    with pytest.raises(NoCache):
        Decode(base, PROMPT)
    Prefill(base, PROMPT).run(1)
    missing: dict[str, str] = {}
    for probe in (cache_probe, structure_probe, latency_probe):
        for one in probe.measure_inference(subject(base)):
            if isinstance(one, Missing):
                missing[one.metric or ""] = one.reason
    assert {"cache_length", "cache_bytes", "decode_matmuls", "decode_seconds", "decode_ratio"} <= missing.keys()
    assert not any(name.startswith("prefill") for name in missing)
    assert set(missing.values()) == {NO_CACHE}


def test_a_phase_that_no_model_has_is_not_timed() -> None:
    """A replicate of a model without a cache times its prefill and goes on."""
    models = {arm: no_cache() for arm in (CONTROL, UNMERGED)}
    few = plan("precision.pairs=2", "precision.warmup_steps=1", "precision.block_seconds=0.001")
    with torch.no_grad():
        assert latency._timed(few.workload.phases[1], models, PROMPT, few, random.Random(0)) == {}
        assert latency._timed(few.workload.phases[0], models, PROMPT, few, random.Random(0)).keys() == {UNMERGED}
    assert latency._cache_bytes(few, no_cache()) == 0


@pytest.mark.parametrize(("tokens", "left"), [(3, 2), (8, 7)])
def test_a_prefix_that_leaves_the_window_is_said(tokens: int, left: int) -> None:
    """The last token of the workload's longest sequence sees a window of positions; how many virtual ones it misses."""
    cell = plan(f"workload.prompt_lengths=[{WINDOW - 1}]", f"workload.train_length={WINDOW - 1}")
    method = PrefixTuning(num_virtual_tokens=tokens)
    cell = dataclasses.replace(cell, method=method)
    corpus = Corpus(PROMPT, PROMPT, 0, "", {})
    attached = method.attach(of("mistral", {"sliding_window": WINDOW}))
    attached.prepare_for_inference()
    (warning,) = _unseen(cell, attached, corpus)
    assert warning.startswith(
        f"after 5 tokens {left} of the {tokens} virtual tokens are outside the sliding window of 6"
    )
    assert warning.endswith("which 4 of 4 layers have")
    wide = method.attach(of("mistral", {"sliding_window": WINDOW - 1 + tokens}))
    assert _unseen(cell, wide, corpus) == []
    assert _unseen(dataclasses.replace(cell, method=plan().method), wide, corpus) == []
