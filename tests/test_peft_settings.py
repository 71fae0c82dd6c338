"""Settings of Hugging Face peft: what it resolves as it attaches, and what it would silently ignore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from methods import MethodError, Unsupported
from methods.peft import Peft
from tests.families import build
from tests.test_conformance import logits, tokens
from tests.test_skipped_cells import only, reasons

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of its own choices, and of transformers' new names
STEPS = 4
RESOLVED: dict[str, tuple[str, dict[str, Any]]] = {
    "all-linear": ("LORA", {"target_modules": "all-linear"}),
    "pattern": ("LORA", {"target_modules": r".*\.(q|v)_proj"}),
    "all but one": ("LORA", {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}),
    "default targets": ("LORA", {"target_modules": None}),
    "layers": ("LORA", {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]}),
    "one layer": ("LORA", {"target_modules": ["q_proj"], "layers_to_transform": 1}),
    "ranks": ("LORA", {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.0.self_attn.v_proj": 2}}),
    "pissa": ("LORA", {"target_modules": "all-linear", "init_lora_weights": "pissa"}),
    "eva": ("LORA", {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}),
    "a module": ("LORA", {"modules_to_save": ["lm_head"]}),
    "parameters": ("LORA", {"target_modules": [], "target_parameters": ["q_proj.weight"]}),
    "mode": ("LORA", {"inference_mode": False}),
    "blocks": ("BOFT", {"boft_block_size": 0, "boft_block_num": 4}),
    "adalora": ("ADALORA", {"target_r": 2, "init_r": 4, "tfinal": 1, "deltaT": 1, "target_modules": "all-linear"}),
    "ia3": ("IA3", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "values": ("SHIRA", {"r": 2, "target_modules": "all-linear"}),
    "prompt": ("PROMPT_TUNING", {"num_virtual_tokens": 3, "num_layers": None, "token_dim": None}),
    "encoder": ("P_TUNING", {"num_virtual_tokens": 3, "encoder_hidden_size": None}),
    "heads": ("PREFIX_TUNING", {"num_virtual_tokens": 3, "num_attention_heads": None}),
}
"""What peft writes into a configuration as it attaches, or keeps as it was given. SHiRA reads the weights for that."""


def peft(kind: str, config: dict[str, Any]) -> Peft:
    return Peft(type=kind, config=config, total_steps=STEPS)


@pytest.mark.parametrize("case", RESOLVED)
def test_a_checkpoint_is_found_to_be_of_its_own_settings(case: str, tmp_path: Path) -> None:
    """Settings are compared as peft resolves them: what was saved with them loads with them, and answers as it did."""
    method = peft(*RESOLVED[case])
    attached = method.attach(build("llama"))
    attached.prepare_for_inference()
    expected = logits(attached.model.eval(), tokens())
    loaded = method.load(build("llama"), attached.save(tmp_path / "checkpoint"))
    torch.testing.assert_close(logits(loaded.model.eval(), tokens()), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("key", "saved", "asked"),
    [
        ("target_modules", "all-linear", ["q_proj", "v_proj"]),
        ("target_modules", ["q_proj", "v_proj"], "all-linear"),
        ("layers_to_transform", [0, 1], [0, 2]),
        ("init_lora_weights", "pissa", True),
        ("rank_pattern", {"q_proj": 3}, {"q_proj": 2}),
        ("modules_to_save", ["lm_head"], ["embed_tokens"]),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(key: str, saved: Any, asked: Any, tmp_path: Path) -> None:
    """Resolved settings that differ are named with both values, whichever of the two peft resolved."""
    shared = {} if key == "target_modules" else {"target_modules": ["q_proj"]}
    folder = peft("LORA", {**shared, key: saved}).attach(build("llama")).save(tmp_path / "checkpoint")
    with pytest.raises(MethodError, match=f"was made with {key} "):
        peft("LORA", {**shared, key: asked}).load(build("llama"), folder)


IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "rank of no module": ({"rank_pattern": {"gate": 3}}, "rank_pattern: gate matches nothing"),
    "rank of a module without LoRA": ({"rank_pattern": {"o_proj": 3}}, "rank_pattern: o_proj matches nothing"),
    "alpha": ({"alpha_pattern": {"q_proj": 4, "k_proj": 4}}, "alpha_pattern: k_proj matches nothing"),
    "target": ({"target_modules": ["q_proj", "c_attn"]}, "target_modules: c_attn matches nothing"),
    "parameter": ({"target_parameters": ["experts.up"]}, "target_parameters: experts.up matches nothing"),
    "layer": ({"target_modules": ["q_proj"], "layers_to_transform": [0, 3]}, "layers_to_transform: 3 matches nothing"),
    "module": ({"modules_to_save": ["score"]}, "modules_to_save: score matches nothing"),
    "excluded": ({"exclude_modules": ["score"]}, "exclude_modules: score matches nothing"),
    "excluded by a pattern": ({"exclude_modules": ".*score"}, "exclude_modules: .*score matches nothing"),
    "letters": ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names, not lm_head"),
}


@pytest.mark.parametrize("case", IDLE)
def test_what_would_be_ignored_is_refused(case: str) -> None:
    """An entry that matches nothing is named in one line, with modules that there are; the model stays as it was."""
    config, words = IDLE[case]
    model = build("llama")
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(Unsupported) as caught:
        peft("LORA", config).attach(model)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "must be a list" in words or "model.layers.0.self_attn.q_proj" in str(caught.value)
    assert [type(module) for module in model.modules()] == kinds


def test_looking_ahead_draws_no_random_number() -> None:
    """Checking leaves the state of torch's generator: what is attached then starts as peft alone starts it."""
    model = build("llama")
    before = torch.get_rng_state()
    peft("P_TUNING", {"num_virtual_tokens": 3}).check(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_peft_refuses_is_known_before_the_first_cell() -> None:
    """Each such cell is a row with peft's reason or ours, and the others run."""
    own = ("method=peft_lora,peft_prefix_tuning", "workload.gradient_checkpointing=on")
    number, reason = only(reasons(*own))
    assert number == 1
    assert "PREFIX_TUNING does not work with gradient checkpointing" in reason
    number, reason = only(reasons("method=peft_lora", "peft_lora.config={r:8},{r:8,rank_pattern:{nothing:2}}"))
    assert number == 1
    assert "rank_pattern: nothing matches nothing" in reason
