"""Which outputs of a model each role changes, seen in the cache and at the modules: no code of the methods is asked.

One output feature of a projection is changed, by one row of a product. It must be that feature of the keys, the values
or the module's output that changes, by that product, and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from methods.adalora import Adalora
from methods.base import Attached, Method
from methods.compat import cache_of
from methods.lora import Lora
from methods.qlora import Qlora
from tests.families import FAMILIES, WITHOUT_CACHE, build
from tests.test_conformance import tokens

SCALE = 3.0
METHODS: dict[str, Callable[[str], Method]] = {
    "lora": lambda role: Lora(rank=1, alpha=SCALE, targets=(role,)),
    "adalora": lambda role: Adalora(rank=1, start_rank=1, alpha=SCALE, total_steps=4, targets=(role,)),
    "qlora": lambda role: Qlora(rank=1, alpha=SCALE, targets=(role,)),
}
MODULES = {
    "llama": {"attention": "model.layers.0.self_attn", "o": "o_proj", "mlp": "model.layers.0.mlp", "up": "up_proj"},
    "opt": {"attention": "model.decoder.layers.0.self_attn", "o": "out_proj", "mlp": "model.decoder.layers.0"},
    "gpt2": {"attention": "transformer.h.0.attn", "o": "c_proj", "mlp": "transformer.h.0.mlp", "up": "c_fc"},
    "gpt_neox": {"attention": "gpt_neox.layers.0.attention", "o": "dense", "mlp": "gpt_neox.layers.0.mlp"},
}
MODULES["llama"] |= {"gate": "gate_proj", "down": "down_proj"}
MODULES["opt"] |= {"up": "fc1", "down": "fc2"}
MODULES["gpt2"] |= {"down": "c_proj"}
MODULES["gpt_neox"] |= {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}
"""Paths in the first layer, by the family whose names a model has."""
WHOLE = ("o", "up", "gate", "down")
NAMED_LIKE = {"openai-gpt": "gpt2", "gpt_bigcode": "gpt2", "gpt_bigcode-heads": "gpt2"}
PARTNERS = {"llama": 4, "mistral": 4, "qwen2": 4, "qwen3": 8, "gemma": 8, "gpt_neox": 2}
"""How far apart the two features are that a rotation mixes; half of the rotated part of a head."""
HEADS = {"qwen3": 16, "gemma": 16}
"""The size of a head where it is not 8."""
NORMED = ("qwen3",)
"""Queries and keys are normed head by head before they are rotated."""


def places(family: str) -> dict[str, str]:
    return MODULES[NAMED_LIKE.get(family, family if family in MODULES else "llama")]


def flat(heads: Tensor) -> Tensor:
    """[B, heads, T, size] to [B, T, heads * size]."""
    return heads.transpose(1, 2).flatten(2)


def seen(model: PreTrainedModel, family: str) -> dict[str, Tensor]:
    """Of the first layer, [B, T, ...]: queries, keys and values of all heads, and what attention read; and logits."""
    found: list[dict[str, Tensor]] = []
    inputs: list[Tensor] = []
    real = functional.scaled_dot_product_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        found.append({"q": flat(q)})
        return real(q, k, v, *rest, **options)

    def read(_module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        inputs.append(args[0] if args else options["hidden_states"])

    attention: Any = model.get_submodule(places(family)["attention"])
    handle = attention.register_forward_pre_hook(read, with_kwargs=True)
    with torch.no_grad(), ExitStack() as stack:
        if family in WITHOUT_CACHE:
            own = attention._attn

            def split(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Any:
                found.append({"q": flat(q), "k": flat(k.transpose(2, 3)), "v": flat(v)})
                return own(q, k, v, *rest)

            stack.enter_context(patch.object(attention, "_attn", split))
            output = model(input_ids=tokens())
        else:
            stack.enter_context(patch.object(functional, "scaled_dot_product_attention", attend))
            output = model(input_ids=tokens(), use_cache=True)
            cache: Any = cache_of(output)
            found[0] |= {"k": flat(cache.layers[0].keys), "v": flat(cache.layers[0].values)}
    handle.remove()
    return {**found[0], "x": inputs[0], "logits": output.logits}


def add_row(attached: Attached, role: str, row: int) -> Tensor:
    """Has the first layer's projection add SCALE times x a to one output feature; returns a [in]."""
    own = {name.removeprefix(f"0.{role}."): p.data for name, p in attached.trained().items() if name.startswith("0.")}
    across, up = (own["A"], own["B"]) if "A" in own else (own["Q"], own["P"])
    across.normal_(generator=torch.Generator().manual_seed(3))
    up.zero_()
    up[row] = 1.0
    if "lam" in own:
        own["lam"].fill_(1.0)
    return across[0].clone()


def changed(before: Tensor, after: Tensor) -> set[int]:
    """The features [..., F] that changed by more than rounding does."""
    return set(torch.nonzero((after - before).abs().flatten(0, -2).amax(0) > 1e-5).flatten().tolist())


@pytest.mark.parametrize("role", ["q", "k", "v"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_a_role_is_that_feature_of_the_queries_keys_or_values(method: str, family: str, role: str) -> None:
    """Feature i of ``v`` is feature i of the values, by the product with what attention reads, and of nothing else.

    So it is for queries and keys, where a rotation gives some of it to the feature's partner, from the second token on,
    or a norm to the whole head.
    """
    model = build(family)
    attached = METHODS[method](role).attach(model)
    before = seen(model, family)
    width = before[role].shape[-1]
    head = HEADS.get(family, 8)
    for row in {0, (head + 1) % width, width - 1}:
        a = add_row(attached, role, row)
        after = seen(model, family)
        product = SCALE * before["x"] @ a
        for other in {"q", "k", "v"} - {role}:
            assert torch.equal(after[other], before[other])
        assert not torch.allclose(after["logits"], before["logits"], atol=1e-5)
        if role != "v" and family in NORMED:
            assert changed(before[role], after[role]) == set(range(row - row % head, row - row % head + head))
            continue
        change = after[role] - before[role]
        if family == "opt" and role == "q":
            change = change * head**0.5  # what OPT's attention gets is scaled already
        first = change if role == "v" or family not in PARTNERS else change[:, :1]  # no rotation at position 0
        torch.testing.assert_close(first[..., row], product[:, : first.shape[1]], atol=1e-4, rtol=1e-4)
        assert changed(first * 0, first) == {row}
        if role != "v" and family in PARTNERS:
            torch.testing.assert_close(change.norm(dim=-1), product.abs(), atol=1e-4, rtol=1e-4)
            assert {abs(feature - row) for feature in changed(before[role], after[role])} <= {0, PARTNERS[family]}


@pytest.mark.parametrize("role", ["q", "k"])
def test_a_row_is_that_feature_before_it_is_normed(role: str) -> None:
    """Where heads are normed, what goes into the norm grows by the product in that feature alone."""
    model = build("qwen3")
    attached = METHODS["lora"](role).attach(model)
    read: list[Tensor] = []
    norm = model.get_submodule(f"model.layers.0.self_attn.{role}_norm")
    norm.register_forward_pre_hook(lambda _module, args: read.append(args[0].flatten(2)))
    x = seen(model, "qwen3")["x"]
    a = add_row(attached, role, 17)
    seen(model, "qwen3")
    torch.testing.assert_close(read[1][..., 17] - read[0][..., 17], SCALE * x @ a, atol=1e-4, rtol=1e-4)
    assert changed(read[0], read[1]) == {17}


@pytest.mark.parametrize(
    ("family", "role"), [(family, role) for family in FAMILIES for role in places(family) if role in WHOLE]
)
@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_a_whole_module_is_that_feature_of_its_output(method: str, family: str, role: str) -> None:
    """The module at the known path, and in the first layer no other, adds the product with what it reads."""
    at, model = places(family), build(family)
    path = f"{at['attention' if role == 'o' else 'mlp']}.{at[role]}"
    attached = METHODS[method](role).attach(model)
    calls: list[tuple[Tensor, Tensor]] = []
    model.get_submodule(path).register_forward_hook(lambda _module, args, output: calls.append((args[0], output)))
    seen(model, family)
    row = calls[0][1].shape[-1] - 2
    a = add_row(attached, role, row)
    seen(model, family)
    (x, before), (same, after) = calls
    assert torch.equal(x, same)
    torch.testing.assert_close((after - before)[..., row], SCALE * x @ a, atol=1e-4, rtol=1e-4)
    assert changed(before, after) == {row}
