"""Each method against its definition in other words: the conformance matrix would not notice a different method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from methods.adalora import Adalora, AdaloraAttached, Importance
from methods.adapter import Adapter, AdapterAttached
from methods.architectures import architecture_of
from methods.compat import cache_of
from methods.lora import Lora, LowRank
from methods.p_tuning import PTuning
from methods.p_tuning_v2 import PTuningV2
from methods.prefix_tuning import PrefixTuning, ReparametrizedPrefix
from methods.prompt_tuning import PromptTuning
from methods.qlora import Qlora
from tests.families import FAMILIES, WITHOUT_CACHE, build
from tests.test_conformance import logits, tokens, train

K = 5
families = pytest.mark.parametrize("family", FAMILIES)


def base_and_ids(family: str) -> tuple[PreTrainedModel, Tensor, Tensor, Tensor]:
    """A model, a batch [2, 12] whose first K tokens are the same, and the base's logits of the other tokens."""
    model, ids = build(family), tokens(2, 12)
    ids[:, :K] = ids[0, :K]
    return model, ids[:1, :K], ids[:, K:], logits(model, ids)[:, K:]


@families
def test_a_prompt_of_real_embeddings_is_those_tokens(family: str) -> None:
    """k vectors that are the embeddings of k tokens give what the base gives after these tokens."""
    model, front, rest, expected = base_and_ids(family)
    prompt = model.get_input_embeddings()(front[0]).detach()
    attached = PromptTuning(num_virtual_tokens=K).attach(model)
    attached.trained()["prompt"].data.copy_(prompt)
    torch.testing.assert_close(logits(model, rest), expected, atol=1e-4, rtol=1e-4)


@families
def test_deep_prompts_of_real_hidden_states_are_those_tokens(family: str) -> None:
    """Each layer's own k vectors, taken from what the base feeds that layer, give what the base gives."""
    model, front, rest, expected = base_and_ids(family)
    states: list[Tensor] = []
    layers = [model.get_submodule(path) for path in architecture_of(model).layers]
    hooks = [layer.register_forward_pre_hook(lambda _m, args: states.append(args[0][0].detach())) for layer in layers]
    logits(model, front)
    for hook in hooks:
        hook.remove()
    attached = PTuningV2(num_virtual_tokens=K).attach(model)
    attached.trained()["prompts"].data.copy_(torch.stack(states))
    torch.testing.assert_close(logits(model, rest), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", range(3))
def test_every_layer_has_deep_prompts_of_its_own(layer: int) -> None:
    """Other vectors in one layer alone change the outputs."""
    model = build("llama")
    attached = PTuningV2(num_virtual_tokens=K).attach(model)
    before = logits(model, tokens())
    attached.trained()["prompts"].data[layer].normal_(std=3.0)
    assert not torch.allclose(logits(model, tokens()), before, atol=1e-3)


def test_a_prompt_starts_at_embeddings_or_within_a_half() -> None:
    """Section 3.2: each vector is the embedding of a token, of many different ones; or uniform in [-0.5, 0.5]."""
    model = build("llama")
    table = cast(Tensor, model.get_input_embeddings().weight).detach()
    sampled = PromptTuning(num_virtual_tokens=40).attach(model)
    start = sampled.trained()["prompt"].detach()
    nearest = (start.unsqueeze(1) == table).all(-1)  # [k, vocabulary]
    assert nearest.any(1).all()
    assert len(set(nearest.float().argmax(1).tolist())) > 20
    sampled.detach()
    drawn = PromptTuning(num_virtual_tokens=40, init="random").attach(model).trained()["prompt"].detach()
    assert 0.45 < float(drawn.abs().max()) <= 0.5


def test_logits_at_given_positions_are_those_of_real_tokens() -> None:
    """``logits_to_keep`` counts real tokens, as a number and as a list of positions."""
    model = build("llama")
    PromptTuning(num_virtual_tokens=K).attach(model)
    every = logits(model, tokens())
    for keep in (3, torch.tensor([0, 2, 8])):
        wanted = every[:, -keep:] if isinstance(keep, int) else every[:, keep]
        torch.testing.assert_close(logits(model, tokens(), logits_to_keep=keep), wanted)


def test_an_encoder_is_run_once_and_dropped() -> None:
    """What makes vectors in training is no parameter of the form for inference, which holds the vectors alone."""
    for method, name in (
        (PrefixTuning(num_virtual_tokens=K, reparametrize=True), "prefix"),
        (PTuning(num_virtual_tokens=K), "prompt"),
    ):
        attached = method.attach(build("llama"))
        made = attached.shipped()[name].clone()
        attached.prepare_for_inference()
        assert set(attached.named_parameters()) == {name}
        assert torch.equal(attached.named_parameters()[name], made)


def test_the_lstm_reads_in_both_directions_and_its_mlp_alone_makes_the_prompt() -> None:
    """Section 3.2 in other words: two LSTM layers each way over the placeholders, then linear, ReLU, linear."""
    attached = PTuning(num_virtual_tokens=K).attach(build("llama"))
    encoder = cast(Any, attached).encoder
    states = encoder.placeholders
    for layer in range(2):
        halves = []
        for suffix in ("", "_reverse"):
            weights = [getattr(encoder.lstm, f"{name}_l{layer}{suffix}") for name in ("weight_ih", "weight_hh")]
            biases = [getattr(encoder.lstm, f"{name}_l{layer}{suffix}") for name in ("bias_ih", "bias_hh")]
            order = range(K) if not suffix else range(K - 1, -1, -1)
            h = c = torch.zeros(weights[1].shape[1])
            found = {}
            for position in order:
                gates = weights[0] @ states[position] + biases[0] + weights[1] @ h + biases[1]
                i, f, g, o = gates.chunk(4)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                found[position] = h
            halves.append(torch.stack([found[position] for position in range(K)]))
        states = torch.cat(halves, dim=1)
    first, last = encoder.mlp[0], encoder.mlp[2]
    expected = functional.relu(states @ first.weight.t() + first.bias) @ last.weight.t() + last.bias
    torch.testing.assert_close(attached.shipped()["prompt"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_CACHE])
def test_a_prefix_of_real_keys_and_values_is_those_tokens(family: str) -> None:
    """Keys and values that the base caches for k tokens give what the base gives after these tokens."""
    model, front, rest, expected = base_and_ids(family)
    with torch.no_grad():
        cache = cache_of(model(input_ids=front, use_cache=True))
    assert cache is not None
    layers = cast(list[Any], cache.layers)
    # [1, heads, k, head size] of each layer to [L, 2, k, d_kv]
    pairs = [torch.stack([t[0].transpose(0, 1).flatten(1) for t in (layer.keys, layer.values)]) for layer in layers]
    attached = PrefixTuning(num_virtual_tokens=K).attach(model)
    attached.trained()["prefix"].data.copy_(torch.stack(pairs))
    torch.testing.assert_close(logits(model, rest), expected, atol=1e-4, rtol=1e-4)


def test_a_reparametrised_prefix_is_what_its_mlp_makes() -> None:
    """Embeddings through linear, tanh, linear, one row a virtual token, laid out as [L, 2, k, d_kv]."""
    model = build("llama")
    attached = PrefixTuning(num_virtual_tokens=K, reparametrize=True, encoder_hidden_size=24).attach(model)
    source = cast(Any, attached).source
    assert isinstance(source, ReparametrizedPrefix)
    first, last = source.mlp[0], source.mlp[2]
    made = torch.tanh(source.embedding @ first.weight.t() + first.bias) @ last.weight.t() + last.bias
    prefix = attached.shipped()["prefix"]
    for layer, part, token in [(0, 0, 0), (1, 1, 3), (2, 0, 4)]:
        start = (layer * 2 + part) * prefix.shape[-1]
        torch.testing.assert_close(prefix[layer, part, token], made[token, start : start + prefix.shape[-1]])


def whole(y: Tensor) -> dict[str, Tensor]:
    return {"q": y}


def gpt2_parts(y: Tensor) -> dict[str, Tensor]:
    """q, k and v one after another."""
    return dict(zip("qkv", y.chunk(3, -1), strict=True))


def neox_parts(y: Tensor) -> dict[str, Tensor]:
    """q, k and v of each of the four heads after one another."""
    return {role: part.flatten(-2) for role, part in zip("qkv", y.unflatten(-1, (4, -1)).chunk(3, -1), strict=True)}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("role", ["q", "k", "v"])
@pytest.mark.parametrize(("family", "parts"), [("llama", None), ("gpt2", gpt2_parts), ("gpt_neox", neox_parts)])
def test_lora_adds_its_product_to_its_own_part(
    family: str, parts: Callable[[Tensor], dict[str, Tensor]] | None, role: str, rslora: bool
) -> None:
    """A target grows by alpha / r (alpha / sqrt r for rsLoRA) B A x; of a fused matrix the other parts stay."""
    model, rank, alpha = build(family), 3, 12.0
    path = architecture_of(model).projections(model, [role])[1].path
    split = parts or (lambda y: {role: y})
    x = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    before = split(model.get_submodule(path)(x))
    attached = Lora(rank=rank, alpha=alpha, targets=(role,), rslora=rslora).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    wrapper = model.get_submodule(path)
    assert isinstance(wrapper, LowRank)
    branch = wrapper.branches[0]
    after = split(wrapper(x))
    scale = alpha / math.sqrt(rank) if rslora else alpha / rank
    assert isinstance(branch.A, Tensor)
    assert isinstance(branch.B, Tensor)
    torch.testing.assert_close(
        after[role] - before[role], scale * (x @ branch.A.t() @ branch.B.t()), atol=1e-4, rtol=1e-4
    )
    for other in before.keys() - {role}:
        assert torch.equal(before[other], after[other])


def test_a_starts_uniform_and_b_at_zero() -> None:
    """A is uniform within 1 / sqrt(in), as Kaiming's rule with a = sqrt 5 gives; B is zero (section 4.1)."""
    torch.manual_seed(0)
    attached = Lora(rank=32, targets=("q",)).attach(build("llama"))
    for name, parameter in attached.trained().items():
        bound = 1 / math.sqrt(32) if name.endswith("A") else 0.0
        assert float(parameter.detach().abs().max()) <= bound
        # the standard deviation of a uniform distribution is its bound over sqrt 3
        assert math.isclose(float(parameter.detach().std()), bound / math.sqrt(3), rel_tol=0.1)


def test_lora_dropout_is_on_in_training_alone() -> None:
    """In evaluation, and in serving form whatever the mode, outputs do not vary; in training they do."""
    model = build("llama")
    attached = Lora(rank=4, dropout=0.5).attach(model)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    assert torch.equal(logits(model, tokens()), logits(model, tokens()))
    model.train()
    assert not torch.equal(logits(model, tokens()), logits(model, tokens()))


def test_an_adapter_adds_its_bottleneck_before_the_residual_sum() -> None:
    """After attention's and the feed-forward's last projection: y + up(gelu(down(y))), and nowhere else."""
    model = build("llama")
    attached = Adapter(bottleneck=6).attach(model)
    assert isinstance(attached, AdapterAttached)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    bottleneck = model.get_submodule(architecture_of(model).layers[1] + ".mlp.down_proj")
    x = torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    y = cast(Any, bottleneck).base(x)
    down, up = cast(nn.Linear, bottleneck.down), cast(nn.Linear, bottleneck.up)
    expected = y + functional.gelu(y @ down.weight.t() + down.bias) @ up.weight.t() + up.bias
    torch.testing.assert_close(bottleneck(x), expected)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        (Adapter(), [f"{layer}.{part}" for part in ("attention", "feed_forward") for layer in range(3)]),
        (Adapter(placement="pfeiffer"), [f"{layer}.feed_forward" for layer in range(3)]),
        (Adapter(skip_layers=2), ["2.attention", "2.feed_forward"]),
    ],
)
def test_placement_of_adapters(method: Adapter, names: list[str]) -> None:
    """Houlsby: two a layer; Pfeiffer: after the feed-forward; AdapterDrop leaves the first layers without."""
    assert list(method.places(build("llama"))) == names


def test_importance_is_smoothed_sensitivity_times_uncertainty() -> None:
    """Equations 9 to 11 of the AdaLoRA paper, written out: I and U are running means of |w g| and |I' - I|."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4, generator=generator))
    importance = Importance([weight], beta1=0.85, beta2=0.9)
    sensitivity = uncertainty = torch.zeros(6, 4)
    for _ in range(5):
        weight.grad = torch.randn(6, 4, generator=generator)
        importance.update()
        now = (weight.detach() * weight.grad).abs()
        sensitivity = 0.85 * sensitivity + 0.15 * now
        uncertainty = 0.9 * uncertainty + 0.1 * (now - sensitivity).abs()
    torch.testing.assert_close(importance.scores(), [sensitivity * uncertainty])


def test_the_budget_shrinks_by_the_cube() -> None:
    """Equation 12: the start budget until t_i, the target from T - t_f on, between them a cubic."""
    method = Adalora(rank=4, start_rank=6, total_steps=100, initial_steps=10, final_steps=30)
    assert [method.budget(step, 10) for step in (1, 10, 70, 100)] == [60, 60, 40, 40]
    assert [method.budget(step, 10) for step in (25, 40, 55)] == [
        int(40 + 20 * (1 - (step - 10) / 60) ** 3) for step in (25, 40, 55)
    ]


def test_the_orthogonality_penalty_is_zero_for_orthogonal_triplets_alone() -> None:
    """gamma times the mean of ||P'P - I|| and ||QQ' - I||: zero where both are orthonormal, and nowhere else."""
    attached = Adalora(rank=2, start_rank=3, total_steps=10, penalty_weight=0.5, targets=("q",)).attach(build("llama"))
    assert isinstance(attached, AdaloraAttached)
    for triplets in attached.triplets:
        nn.init.orthogonal_(triplets.P)
        nn.init.orthogonal_(triplets.Q)
    penalty = attached.regularization_loss()
    assert penalty is not None
    assert float(penalty.detach()) < 1e-4
    attached.triplets[0].P.data *= 2  # P'P - I is now 3 I, whose norm is 3 sqrt(3)
    penalty = attached.regularization_loss()
    assert penalty is not None
    assert math.isclose(float(penalty.detach()), 0.5 * 3 * math.sqrt(3) / (2 * len(attached.triplets)), rel_tol=1e-3)


def test_the_least_important_triplets_are_pruned() -> None:
    """Of all projections together, those with the highest score keep their lambda, and the others have none."""
    attached = Adalora(rank=2, start_rank=3, total_steps=10, initial_steps=0, final_steps=5).attach(build("llama"))
    assert isinstance(attached, AdaloraAttached)
    count = len(attached.triplets) * 3
    importance = attached.importance
    for index, triplets in enumerate(attached.triplets):
        at = 3 * index + 1  # P, lambda, Q of one projection after the other; sensitivities are zero at first
        importance.sensitivity[at].copy_(torch.arange(3) * len(attached.triplets) + index)  # all different
        importance.uncertainty[at].fill_(1.0)
        triplets.lam.data.fill_(1.0)
    attached.after_step(5)  # the end of the schedule
    kept = torch.stack([triplets.lam for triplets in attached.triplets]) != 0
    scores = torch.stack(importance.scores()[1::3])
    assert int(kept.sum()) == 2 * len(attached.triplets) < count
    assert scores[kept].min() > scores[~kept].max()


def test_the_distribution_stands_in_the_final_phase() -> None:
    """From the end of the schedule on, training changes no rank and revives no pruned triplet (section 3.3)."""
    torch.manual_seed(0)
    method = Adalora(rank=2, total_steps=30, initial_steps=3, final_steps=15)
    attached = method.attach(build("llama"))
    assert isinstance(attached, AdaloraAttached)
    train(attached, steps=method.end)
    model = attached.model.train()
    optimizer = torch.optim.AdamW(attached.trained().values(), lr=0.05)
    pattern = [keep.clone() for keep in attached.keep]
    for step in range(method.end + 1, method.total_steps + 1):
        model(input_ids=tokens(seed=step), labels=tokens(seed=step)).loss.backward()
        optimizer.step()
        attached.after_step(step)
        optimizer.zero_grad()
        assert all(torch.equal(keep, before) for keep, before in zip(attached.keep, pattern, strict=True))
        assert all(not t.lam[~keep].any() for t, keep in zip(attached.triplets, attached.keep, strict=True))


def test_adalora_adds_its_triplets_while_they_train_and_after() -> None:
    """W x + alpha / r P diag(lambda) Q x with r the rank at the start, also where pruning has left fewer."""
    model = build("llama")
    path = architecture_of(model).projections(model, ["v"])[0].path
    base = model.get_submodule(path)
    attached = Adalora(rank=2, start_rank=4, alpha=12.0, total_steps=10, targets=("v",)).attach(model)
    assert isinstance(attached, AdaloraAttached)
    for parameter in attached.trained().values():
        parameter.data.normal_()
    triplets, x = attached.triplets[0], torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    attached.keep[0][1:3] = False
    triplets.lam.data[1:3] = 0.0
    expected = base(x) + 12.0 / 4 * x @ (triplets.P @ torch.diag(triplets.lam) @ triplets.Q).t()
    torch.testing.assert_close(model.get_submodule(path)(x), expected, atol=1e-4, rtol=1e-4)
    attached.prepare_for_inference()
    torch.testing.assert_close(model.get_submodule(path)(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("double", [False, True])
def test_the_base_of_qlora_is_nf4(double: bool) -> None:
    """Every linear layer of the decoder is packed two weights a byte as NF4, its constants quantised again if told."""
    model = build("llama")
    paths = [p.path for p in architecture_of(model).projections(model, ["all-linear"])]
    shapes = {path: cast(Tensor, model.get_submodule(path).weight).shape for path in paths}
    Qlora(rank=2, double_quantization=double).attach(model)
    for path in paths:
        module = model.get_submodule(path)
        packed = cast(Any, module.base if isinstance(module, LowRank) else module).weight
        assert packed.dtype == torch.uint8
        assert packed.numel() == shapes[path].numel() // 2
        assert (packed.quant_state.quant_type, packed.quant_state.nested) == ("nf4", double)
