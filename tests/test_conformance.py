"""The conformance matrix: what every method promises, on every model family."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

import methods
from methods.adalora import Adalora, AdaloraAttached
from methods.adapter import Adapter
from methods.architectures import sizes_of
from methods.base import Attached, Method
from methods.full import Full
from methods.lora import Lora
from methods.p_tuning import PTuning
from methods.p_tuning_v2 import PTuningV2
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning
from methods.qlora import Qlora
from tests.families import FAMILIES, VOCABULARY, WITHOUT_CACHE, build

STEPS = 4
CASES: dict[str, Method] = {
    "full": Full(),
    "prompt_tuning": PromptTuning(num_virtual_tokens=5),
    "prompt_tuning-random": PromptTuning(num_virtual_tokens=5, init="random"),
    "p_tuning": PTuning(num_virtual_tokens=5),
    "p_tuning-mlp": PTuning(num_virtual_tokens=5, encoder="mlp", encoder_hidden_size=24),
    "p_tuning_v2": PTuningV2(num_virtual_tokens=5, init_std=0.5),
    "prefix_tuning": PrefixTuning(num_virtual_tokens=5, init_std=0.5),
    "prefix_tuning-mlp": PrefixTuning(num_virtual_tokens=5, reparametrize=True, encoder_hidden_size=24),
    "adapter": Adapter(bottleneck=6),
    "adapter-pfeiffer": Adapter(bottleneck=6, placement="pfeiffer", skip_layers=1),
    "lora": Lora(rank=4),
    "lora-all-linear": Lora(rank=4, targets=("all-linear",), rslora=True),
    "adalora": Adalora(rank=2, total_steps=STEPS, initial_steps=0, final_steps=1),
    "qlora": Qlora(rank=4),
}
ELSEWHERE = {"peft"}
"""Runs what is not ours, and keeps other promises: see ``test_peft.py``."""
WITHOUT_MEANS = [(name, family) for name in ("prefix_tuning", "prefix_tuning-mlp") for family in WITHOUT_CACHE]
"""What is refused, because the family lacks what the method needs."""
RUNS = [(case, family) for case in CASES for family in FAMILIES if (case, family) not in WITHOUT_MEANS]
matrix = pytest.mark.parametrize("family", FAMILIES)
runs = pytest.mark.parametrize(("case", "family"), RUNS)


def tokens(batch: int = 2, length: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: PreTrainedModel, ids: Tensor, **arguments: object) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, **arguments).logits


def train(attached: Attached, steps: int = STEPS, rate: float = 0.05, prune: bool = True) -> None:
    """A few real steps, so that nothing below is compared at its starting point."""
    model = attached.model.train()
    optimizer = torch.optim.AdamW(attached.trained().values(), lr=rate)
    for step in range(1, steps + 1):
        ids = tokens(seed=step)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        penalty = attached.regularization_loss()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        if prune:
            attached.after_step(step)
        optimizer.zero_grad()
    model.eval()


def trained(case: str, family: str) -> Attached:
    torch.manual_seed(7)
    attached = CASES[case].attach(build(family))
    train(attached, rate=0.005 if case == "full" else 0.05)
    return attached


def state(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_method_of_the_package_is_in_the_matrix() -> None:
    """A method file without a case here fails the build."""
    assert {method.name for method in CASES.values()} == set(methods.available()) - ELSEWHERE


@pytest.mark.parametrize(("case", "family"), WITHOUT_MEANS)
def test_a_method_without_its_means_is_refused(case: str, family: str) -> None:
    """A model that takes no cache has no prefix; nothing is left of the attempt."""
    model = build(family)
    for refused in (CASES[case].check, CASES[case].attach):
        with pytest.raises(methods.Unsupported, match=f"{type(model).__name__}.forward takes no cache"):
            refused(model)
    CASES["lora"].attach(model)


@runs
def test_identity_at_initialisation(case: str, family: str) -> None:
    """Where a method promises it, attaching changes no output, bit for bit; where it does not, outputs do change."""
    method, model = CASES[case], build(family)
    before = logits(model, tokens())
    method.attach(model)
    after = logits(model, tokens())
    assert after.shape == before.shape
    assert torch.equal(before, after) == method.identity


@runs
def test_only_its_own_parameters_train_and_each_gets_a_gradient(case: str, family: str) -> None:
    """The optimiser's parameters are exactly those that require a gradient, and after a step none is without one."""
    model = build(family)
    attached = CASES[case].attach(model)
    own = attached.trained()
    train(attached, steps=1, prune=False)  # a pruned triplet rightly gets none
    ids = tokens()
    model(input_ids=ids, labels=ids).loss.backward()
    assert {id(p) for p in model.parameters() if p.requires_grad} <= {id(p) for p in own.values()}
    dead = [name for name, p in own.items() if p.grad is None or not p.grad.any()]
    # the placeholder row of a padding token and an unused position never get one
    assert [name for name in dead if family != "opt" or "embed" not in name] == []


@runs
def test_count_equals_the_formula(case: str, family: str) -> None:
    """Trained and shipped parameters are what the method's formula says."""
    method, model = CASES[case], build(family)
    count = method.count(model)
    attached = method.attach(model)
    assert sum(p.numel() for p in attached.trained().values()) == count.trained
    train(attached)
    attached.prepare_for_inference()
    shipped = sum(t.numel() for t in attached.shipped().values())
    if not isinstance(method, Adalora) or len({p.out_features for p in method.projections(build(family))}) == 1:
        assert shipped == count.shipped
    assert attached.trained() == {}


def shares(attached: Attached) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that trains, and every layer's share of those that hold all layers."""
    layers = len(sizes_of(attached.base).layers)
    for name, parameter in attached.trained().items():
        tensor = parameter.detach()
        yield name, tensor
        if name in ("prefix", "prompts"):
            yield from ((f"{name}[{index}]", share) for index, share in enumerate(tensor.flatten(0, -3)))
        if name.startswith("mlp.2") and attached.method.name == "prefix_tuning":
            yield from ((f"{name}[{index}]", share) for index, share in enumerate(tensor.chunk(2 * layers)))


@runs
def test_every_parameter_reaches_the_outputs(case: str, family: str) -> None:
    """Moving any tensor, or any layer's share of one, changes the outputs by more than rounding does."""
    torch.manual_seed(7)
    attached = CASES[case].attach(build(family))
    train(attached, steps=2, rate=0.005 if case == "full" else 0.05, prune=False)
    before, idle = logits(attached.model, tokens()), []
    for name, share in shares(attached):
        kept = share.clone()
        share.add_(torch.randn_like(share))
        if (logits(attached.model, tokens()) - before).abs().max() < 1e-5 * before.abs().max():
            idle.append(name)
        share.copy_(kept)
    assert torch.equal(logits(attached.model, tokens()), before)
    # what is added to all keys alike changes no attention, unless they are rotated
    assert [name for name in idle if family != "opt" or not name.endswith("k_proj.bias")] == []


@runs
def test_cached_generation_equals_uncached(case: str, family: str) -> None:
    """Greedy generation gives the same tokens with a cache as when everything is computed anew for each token."""
    attached = trained(case, family)
    model, ids = attached.model, tokens()
    mask = torch.ones_like(ids)
    arguments = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = model.generate(ids, use_cache=True, **arguments)
    assert cached.shape == (2, ids.shape[1] + 6)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **arguments))
    last = logits(model, cached)[:, -2]
    last[:, model.config.eos_token_id] = -torch.inf  # min_new_tokens forbids it
    assert torch.equal(last.argmax(-1), cached[:, -1])


@runs
def test_left_padded_batch_equals_single(case: str, family: str) -> None:
    """A sequence gets the same logits and the same continuation alone as padded on the left beside a longer one."""
    attached = trained(case, family)
    model = attached.model
    long, short = tokens(1, 9), tokens(1, 5, seed=4)
    padded = functional.pad(short, (4, 0))
    ids, mask = torch.cat([long, padded]), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    both = logits(model, ids, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(both[1:, 4:], logits(model, short), atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(both[:1], logits(model, long), atol=2e-4, rtol=2e-4)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = model.generate(ids, attention_mask=mask, **options)
    single = model.generate(short, attention_mask=torch.ones_like(short), **options)
    assert torch.equal(batch[1, 9:], single[0, 5:])


@runs
def test_save_and_load(case: str, family: str, tmp_path: Path) -> None:
    """What is saved, loaded into a fresh copy of the base, gives the same outputs, bit for bit."""
    attached = trained(case, family)
    attached.prepare_for_inference()
    path = attached.save(tmp_path / "saved")
    expected = logits(attached.model, tokens())
    fresh = build(family)
    loaded = methods.load(fresh, path)
    assert loaded.method == attached.method
    assert torch.equal(logits(fresh, tokens()), expected)
    assert loaded.trained() == {}


@runs
def test_serving_changes_no_output(case: str, family: str) -> None:
    """Dropping encoders and pruned ranks leaves the outputs as training left them."""
    attached = trained(case, family)
    before = logits(attached.model, tokens())
    attached.prepare_for_inference()
    torch.testing.assert_close(logits(attached.model, tokens()), before, atol=1e-5, rtol=1e-5)


@runs
def test_merged_equals_unmerged(case: str, family: str) -> None:
    """Merging leaves the outputs, and the module tree of the base; a method without a merge refuses in one line."""
    attached = trained(case, family)
    method, model = attached.method, attached.model
    attached.prepare_for_inference()
    unmerged = logits(model, tokens())
    if not method.mergeable:
        with pytest.raises(methods.MethodError):
            attached.merge()
        return
    attached.merge()
    merged = logits(model, tokens())
    assert not torch.equal(merged, logits(build(family), tokens()))
    # a lossy merge rounds to 4 bits again: nearer than the untouched base, not equal
    tolerance = (
        {"atol": 0.5 * float(unmerged.std()), "rtol": 0.0} if method.lossy_merge else {"atol": 1e-4, "rtol": 1e-4}
    )
    assert (merged - unmerged).abs().mean() < tolerance["atol"] + tolerance["rtol"]
    if not method.lossy_merge:
        torch.testing.assert_close(merged, unmerged, **tolerance)
        assert [type(m) for m in model.modules()] == [type(m) for m in build(family).modules()]
    with pytest.raises(methods.MethodError):
        attached.detach()


@runs
def test_base_is_unchanged_bit_for_bit(case: str, family: str) -> None:
    """Training leaves the base alone, and detaching gives it back with its module tree and its outputs."""
    method, model = CASES[case], build(family)
    if method.name == "full":
        attached = method.attach(model)
        with pytest.raises(methods.MethodError):
            attached.detach()
        return
    reference = copy.deepcopy(model)
    if method.name == "qlora":  # the base that it trains beside is the quantised one
        from methods.qlora import quantize

        quantize(reference, double_quantization=True)
    attached = method.attach(model)
    train(attached)
    attached.detach()
    before, after = state(reference), state(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(model, tokens()), logits(reference, tokens()))
    assert [name for name, _ in model.named_modules()] == [name for name, _ in reference.named_modules()]


@matrix
def test_adalora_final_ranks_sum_to_the_budget(family: str) -> None:
    """When the schedule has ended, all ranks sum to rank times the number of projections, and no more are shipped."""
    attached = trained("adalora", family)
    assert isinstance(attached, AdaloraAttached)
    ranks = attached.ranks()
    assert sum(ranks.values()) == 2 * len(ranks)
    attached.prepare_for_inference()
    assert {name: attached.shipped()[f"{name}.A"].shape[0] for name in ranks} == ranks
