"""Models whose forward pass takes arguments without naming them."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from methods import Method, Unsupported
from methods.lora import Lora
from methods.p_tuning import PTuning
from methods.p_tuning_v2 import PTuningV2
from methods.peft import Peft
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning
from tests.families import FAMILIES


class Deaf(LlamaForCausalLM):
    """Passes on whatever it is given, and names what it takes nowhere."""

    def forward(self, input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return super().forward(input_ids=input_ids, **kwargs)


class Wrapped(LlamaForCausalLM):
    """Is decorated, as most models of transformers are."""

    @functools.wraps(LlamaForCausalLM.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


VIRTUAL: dict[str, tuple[Method, str]] = {
    "prompt_tuning": (PromptTuning(), "inputs_embeds and no position_ids and no logits_to_keep and no attention_mask"),
    "p_tuning": (PTuning(), "inputs_embeds and no position_ids and no logits_to_keep and no attention_mask"),
    "p_tuning_v2": (PTuningV2(), "inputs_embeds and no position_ids and no logits_to_keep and no attention_mask"),
    "prefix_tuning": (PrefixTuning(), "cache and no position_ids and no attention_mask"),
    "peft prefix": (
        Peft(type="PREFIX_TUNING", config={"num_virtual_tokens": 3}),
        "cache and no logits_to_keep and no attention_mask",
    ),
    "peft prompt": (
        Peft(type="PROMPT_TUNING", config={"num_virtual_tokens": 3}),
        "inputs_embeds and no logits_to_keep and no attention_mask",
    ),
}


@pytest.mark.parametrize("case", VIRTUAL)
def test_an_argument_that_forward_does_not_name_is_missing(case: str) -> None:
    """Virtual tokens need a forward pass that names what they are passed by; ``**kwargs`` names nothing."""
    method, missing = VIRTUAL[case]
    config = AutoConfig.for_model("llama", **FAMILIES["llama"])
    for refused in (method.check, method.attach):
        with pytest.raises(Unsupported, match=f"^Deaf.forward takes no {missing}, by which virtual tokens are passed"):
            refused(Deaf(config))
    Lora().check(Deaf(config))
    method.check(Wrapped(config))
