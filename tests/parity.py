"""Ours and Hugging Face peft with the same weights; ``python -m tests.parity`` prints how far apart they are."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor, nn

from methods.adalora import Adalora
from methods.base import Attached, Method
from methods.lora import Lora, LowRankAttached
from methods.p_tuning import PTuning
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning
from tests.families import build
from tests.test_conformance import tokens

FAMILIES = ("llama", "qwen3", "gpt2")
STEPS = 12
K = 5
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
VIRTUAL: dict[str, Any] = {"num_virtual_tokens": K}
LORA: dict[str, Any] = {"r": 4, "lora_alpha": 6, **TASK}
BUDGET: dict[str, Any] = {"init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "total_step": STEPS}
CASES: dict[str, tuple[Method, Any]] = {
    "prompt_tuning": (PromptTuning(**VIRTUAL), PromptTuningConfig(**VIRTUAL, **TASK)),
    "p_tuning-lstm": (
        PTuning(**VIRTUAL, encoder_hidden_size=12),
        PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=12, encoder_reparameterization_type="LSTM", **TASK),
    ),
    "p_tuning-mlp": (
        PTuning(**VIRTUAL, encoder="mlp", encoder_hidden_size=12),
        PromptEncoderConfig(**VIRTUAL, encoder_hidden_size=12, **TASK),
    ),
    "prefix_tuning": (PrefixTuning(**VIRTUAL, init_std=0.5), PrefixTuningConfig(**VIRTUAL, **TASK)),
    "prefix_tuning-projected": (
        PrefixTuning(**VIRTUAL, reparametrize=True, encoder_hidden_size=12),
        PrefixTuningConfig(**VIRTUAL, prefix_projection=True, encoder_hidden_size=12, **TASK),
    ),
    "lora": (Lora(rank=4, alpha=6), LoraConfig(**LORA)),
    "lora-rslora": (Lora(rank=4, alpha=6, rslora=True), LoraConfig(**LORA, use_rslora=True)),
    "adalora": (
        Adalora(rank=2, start_rank=4, alpha=6, initial_steps=2, final_steps=3, interval=2, total_steps=STEPS),
        AdaLoraConfig(**BUDGET, lora_alpha=6, **TASK),
    ),
}
PARTS = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
PARTS |= {"P": "lora_B.default", "lam": "lora_E.default", "Q": "lora_A.default"}
ENCODERS = {"lstm": "lstm_head", "mlp": "mlp_head"}


@dataclass(frozen=True)
class Pair:
    """One method twice, on two bases that are the same."""

    ours: Attached
    theirs: PeftModel
    parameters: dict[str, tuple[nn.Parameter, nn.Parameter]]
    """Ours and theirs, by our name."""

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Training losses, penalties included. The first token is not asked for: see test_parity."""
        labels = ids.clone()
        labels[:, 0] = -100
        call = {"attention_mask": torch.ones_like(ids), "labels": labels, "use_cache": False}
        own = self.ours.model(input_ids=ids, **call).loss
        penalty = self.ours.regularization_loss()
        if self.theirs.active_peft_config.peft_type == "PREFIX_TUNING":
            del call["use_cache"]  # there the prefix comes in a cache
        return own if penalty is None else own + penalty, self.theirs(input_ids=ids, **call).loss

    def logits(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of the real tokens; peft gives those of virtual ones too."""
        mask = torch.ones_like(ids)
        both = (model(input_ids=ids, attention_mask=mask).logits for model in (self.ours.model, self.theirs))
        own, other = (logits.detach()[:, -ids.shape[1] :] for logits in both)
        return own, other

    def each(self, of: Callable[[nn.Parameter], Tensor | None]) -> dict[str, tuple[Tensor, Tensor]]:
        """Something of each parameter, ours in peft's shape and theirs."""
        return {
            name: (like_theirs(name, cast(Tensor, of(own))), cast(Tensor, of(other)))
            for name, (own, other) in self.parameters.items()
        }


def pair(case: str, family: str, dtype: torch.dtype = torch.float32) -> Pair:
    """Both with weights drawn at random, none of them zero, and without dropout."""
    torch.manual_seed(3)
    method, config = CASES[case]
    targets = {"gpt2": (("qkv",), ["c_attn"])}.get(family, (("q", "v"), ["q_proj", "v_proj"]))
    settings = config.to_dict()
    if isinstance(method, Lora | Adalora):
        method = dataclasses.replace(method, targets=targets[0])
        settings["target_modules"] = targets[1]
    ours = method.attach(build(family).to(dtype))
    theirs = get_peft_model(build(family).to(dtype), type(config)(**settings)).to(dtype).eval()
    other = dict(theirs.named_parameters())
    parameters = {name: (own, other[name_in_peft(ours, name)]) for name, own in ours.trained().items()}
    with torch.no_grad():
        for name, (own, twin) in parameters.items():
            own.add_(torch.randn_like(own), alpha=0.1)
            twin.copy_(like_theirs(name, own))
    return Pair(ours, cast(PeftModel, theirs), parameters)


def name_in_peft(ours: Attached, name: str) -> str:
    """Where peft keeps the parameter that ours call ``name``."""
    if isinstance(ours, LowRankAttached):
        label, _, part = name.rpartition(".")
        path = next(projection.path for projection, _ in ours.branches() if projection.label == label)
        return f"base_model.model.{path}.{PARTS[part]}"
    encoder = "prompt_encoder.default"
    if "." not in name:
        return f"{encoder}.embedding.weight"
    first, _, rest = name.partition(".")
    heads = {"mlp": "transform"} if isinstance(ours.method, PrefixTuning) else ENCODERS
    return f"{encoder}.{heads[first]}.{rest}"


def like_theirs(name: str, tensor: Tensor) -> Tensor:
    """A parameter of ours, or its gradient, in the shape that peft gives it."""
    if name == "prefix":  # [L, 2, k, d_kv] to [k, L * 2 * d_kv]
        return tensor.permute(2, 0, 1, 3).flatten(1)
    return tensor.unsqueeze(1) if name.endswith(".lam") else tensor


def train(both: Pair, after: Callable[[int], object] = lambda _: None, rate: float = 0.01) -> None:
    """The same steps on both sides, ``after`` called after each. peft's step numbers are ours: the first is 1."""
    sides = [[p for p, _ in both.parameters.values()], [p for _, p in both.parameters.values()]]
    optimizers = [torch.optim.AdamW(parameters, lr=rate) for parameters in sides]
    allocate = getattr(both.theirs.base_model, "update_and_allocate", None)
    for step in range(1, STEPS + 1):
        for loss in both.loss(tokens(seed=step)):
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        both.ours.after_step(step)
        if allocate is not None:
            allocate(step)
        after(step)
        for optimizer in optimizers:
            optimizer.zero_grad()


def distance(pairs: dict[str, tuple[Tensor, Tensor]]) -> float:
    """The largest absolute difference of any number."""
    return max(float((own.detach() - other.detach()).abs().max()) for own, other in pairs.values())


def largest_differences(case: str, family: str, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Of logits and gradients at the same weights, and of parameters and logits after the steps; with the sizes."""
    both = pair(case, family, dtype)
    found = {"logits": distance({"": both.logits(tokens())})}
    for loss in both.loss(tokens()):
        loss.backward()
    gradients = both.each(lambda parameter: parameter.grad)
    found |= {
        "gradients": distance(gradients),
        "largest gradient": max(float(g.abs().max()) for g, _ in gradients.values()),
    }
    for own, other in both.parameters.values():
        own.grad = other.grad = None
    train(both)
    found["parameters after the steps"] = distance(both.each(lambda parameter: parameter))
    return found | {"logits after the steps": distance({"": both.logits(tokens())})}


def main() -> None:
    """One line a method and family."""
    warnings.simplefilter("ignore")
    for case in CASES:
        for family in FAMILIES:
            found = ", ".join(f"{what} {value:.1e}" for what, value in largest_differences(case, family).items())
            sys.stdout.write(f"{case:24} {family:6} {found}\n")


if __name__ == "__main__":
    main()
