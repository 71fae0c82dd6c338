"""Ours against Hugging Face peft on the methods that both have: the same mathematics, held number by number."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.adalora import AdaloraAttached
from tests.families import build
from tests.parity import CASES, FAMILIES, STEPS, Pair, pair, train
from tests.test_conformance import tokens

pytestmark = [
    # peft still uses names that transformers 5.24 has renamed, and tells that GPT-2's weights are transposed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]
families = pytest.mark.parametrize("family", FAMILIES)
cases = pytest.mark.parametrize("case", CASES)
SINGLE = {"atol": 2e-6, "rtol": 2e-5}
DOUBLE = {"atol": 1e-13, "rtol": 1e-12}
GUARD = 1e-5
"""What peft's AdaLoRA adds to the rank that it divides by, lest it be zero."""


def gradients(both: Pair) -> None:
    for loss in both.loss(tokens()):
        loss.backward()


@families
@cases
def test_the_same_weights_give_the_same_outputs_and_gradients(case: str, family: str) -> None:
    """Logits, the training loss with its penalty, and each parameter's gradient are equal within float32."""
    both = pair(case, family)
    torch.testing.assert_close(*both.logits(tokens()), **SINGLE)
    torch.testing.assert_close(*both.loss(tokens()), **SINGLE)
    gradients(both)
    for own, other in both.each(lambda parameter: parameter.grad).values():
        assert other.any()
        torch.testing.assert_close(own, other, **SINGLE)


@families
@cases
def test_what_is_left_is_rounding(case: str, family: str) -> None:
    """In float64 logits, and gradients without a penalty, agree to twelve digits: no formula differs.

    But for one: peft's AdaLoRA divides by r + 1e-5 and ours by r, as the paper has it; with an alpha that makes up for
    that, it is the same too. (Penalties are taken in float32 here, whatever the dtype.)
    """
    both = pair(case, family, torch.float64)
    attached = both.ours
    if isinstance(attached, AdaloraAttached):
        for module in both.theirs.modules():
            if hasattr(module, "ranknum"):
                module.scaling["default"] *= (attached.method.start + GUARD) / attached.method.start
    torch.testing.assert_close(*both.logits(tokens()), **DOUBLE)
    for model in (attached.model, both.theirs):
        logits = model(input_ids=tokens(), attention_mask=torch.ones_like(tokens())).logits[:, -tokens().shape[1] :]
        functional.cross_entropy(logits.flatten(0, 1), tokens().flatten()).backward()
    for own, other in both.each(lambda parameter: parameter.grad).values():
        torch.testing.assert_close(own, other, **DOUBLE)


@families
@cases
def test_as_many_parameters_train(case: str, family: str) -> None:
    """Our formula, our tensors and peft's own count give one number; the shapes are peft's."""
    both = pair(case, family)
    trained, _ = both.theirs.get_nb_trainable_parameters()
    assert trained == sum(p.numel() for p in both.ours.trained().values())
    assert trained == both.ours.method.count(build(family)).trained
    assert all(own.shape == other.shape for own, other in both.each(lambda parameter: parameter).values())


@families
@cases
def test_training_stays_together(case: str, family: str) -> None:
    """After twelve AdamW steps parameters and logits are equal within float32, and far from where they began."""
    both = pair(case, family)
    start = {name: own.detach().clone() for name, (own, _) in both.parameters.items()}
    train(both)
    for own, other in both.each(lambda parameter: parameter).values():
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)
    assert all((own.detach() - start[name]).abs().max() > 0.01 for name, (own, _) in both.parameters.items())
    torch.testing.assert_close(*both.logits(tokens()), atol=1e-5, rtol=1e-4)


@families
def test_adalora_prunes_the_same_triplets(family: str) -> None:
    """After each step of the schedule both keep the same triplets; between t_i and the end their number falls."""
    both = pair("adalora", family)
    attached = both.ours
    assert isinstance(attached, AdaloraAttached)
    numbers: list[int] = []

    def compare(step: int) -> None:
        values = [cast(nn.Parameter, other) for name, (_, other) in both.parameters.items() if name.endswith(".lam")]
        for kept, triplets, other in zip(attached.keep, attached.triplets, values, strict=True):
            assert torch.equal(triplets.lam != 0, other.flatten() != 0)
            if attached.method.allocates(step):  # between two allocations the optimiser moves pruned ones again
                assert torch.equal(kept, other.flatten() != 0)
        numbers.append(sum(int(kept.sum()) for kept in attached.keep))

    train(both, compare)
    modules = len(attached.triplets)
    assert len(numbers) == STEPS
    assert numbers == sorted(numbers, reverse=True)
    assert (numbers[0], numbers[-1]) == (4 * modules, 2 * modules)
    assert len(set(numbers)) > 2
    assert len(set(attached.ranks().values())) > 1


@families
@pytest.mark.parametrize("case", ["prompt_tuning", "p_tuning-mlp"])
def test_peft_also_asks_a_prompt_for_the_first_token(case: str, family: str) -> None:
    """With a prompt before it, the first real token has something to be predicted from: peft's loss takes it in.

    Ours is over the tokens that the base has a loss for, so that a loss means the same with every method.
    """
    both = pair(case, family)
    ids = tokens()
    call = {"attention_mask": torch.ones_like(ids), "labels": ids}
    own, other = both.ours.model(input_ids=ids, **call).loss, both.theirs(input_ids=ids, **call)
    count = ids.shape[1]
    before = other.logits[:, -count - 1]  # of the last virtual token
    first = functional.cross_entropy(before, ids[:, 0])
    assert math.isclose(float(other.loss.detach() * count), float((own * (count - 1) + first).detach()), rel_tol=1e-5)
