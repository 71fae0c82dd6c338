"""``import methods`` as a library: what goes wrong in a caller's hands is refused in one line, not done silently."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import methods
from bench.records.record import Status
from methods import Method, MethodError, Unsupported
from methods.adalora import Adalora
from methods.adapter import Adapter
from methods.compat import cache_argument, cache_of, recompute_activations
from methods.lora import Lora
from methods.p_tuning import PTuning
from methods.p_tuning_v2 import PTuningV2
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning
from methods.qlora import Qlora
from tests.families import FAMILIES, build
from tests.test_conformance import CASES, logits, state, tokens, train

VIRTUAL: dict[str, Method] = {
    "prompt_tuning": PromptTuning(num_virtual_tokens=5),
    "p_tuning": PTuning(num_virtual_tokens=5),
    "p_tuning_v2": PTuningV2(num_virtual_tokens=5, init_std=0.5),
    "prefix_tuning": PrefixTuning(num_virtual_tokens=5, init_std=0.5),
}
virtual = pytest.mark.parametrize("name", VIRTUAL)
MERGEABLE = pytest.mark.parametrize("name", ["lora", "adalora", "qlora"])


def merged(name: str) -> methods.Attached:
    attached = CASES[name].attach(build("llama"))
    train(attached)
    attached.prepare_for_inference()
    attached.merge()
    return attached


@MERGEABLE
def test_a_method_is_merged_once(name: str) -> None:
    """A second merge, and a detach after one, are refused and change nothing."""
    attached = merged(name)
    before = logits(attached.model, tokens())
    for again in (attached.merge, attached.detach):
        with pytest.raises(MethodError, match="merged already"):
            again()
    assert torch.equal(logits(attached.model, tokens()), before)


@MERGEABLE
def test_a_detached_method_is_not_merged(name: str) -> None:
    """What was taken out of a model can't be folded into it any more."""
    attached = CASES[name].attach(build("llama"))
    train(attached)
    attached.detach()
    before = logits(attached.model, tokens())
    with pytest.raises(MethodError, match="detached already"):
        attached.merge()
    assert torch.equal(logits(attached.model, tokens()), before)


@pytest.mark.parametrize("second", ["lora", "adapter", "prefix_tuning", "full"])
@pytest.mark.parametrize("first", ["lora", "adapter", "prefix_tuning"])
def test_a_model_holds_one_method_at_a_time(first: str, second: str) -> None:
    """A second method is refused and leaves the first as it was; once that is gone, another may come."""
    model = build("llama")
    attached = CASES[first].attach(model)
    count = len(attached.trained())
    with pytest.raises(MethodError, match="holds"):
        CASES[second].attach(model)
    assert len(attached.trained()) == count > 0
    attached.detach()
    CASES[second].attach(model)


@pytest.mark.parametrize("name", [name for name in CASES if name != "full"])
def test_a_deep_copy_has_a_method_of_its_own(name: str) -> None:
    """A copy gives the same outputs, and goes on giving them when the original changes and loses its method."""
    attached = CASES[name].attach(build("llama"))
    train(attached)
    other = copy.deepcopy(attached.model)
    before = logits(attached.model, tokens())
    assert torch.equal(logits(other, tokens()), before)
    for parameter in attached.trained().values():
        parameter.data.zero_()
    attached.detach()
    assert torch.equal(logits(other, tokens()), before)


def windowed(window: int) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = {**FAMILIES["mistral"], "sliding_window": window}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **settings)).eval()


@virtual
def test_padding_in_a_sliding_window_is_refused_where_it_would_be_wrong(name: str) -> None:
    """Padding would push virtual tokens out of the window: refused; without padding, or in a wide window, it works."""
    ids = torch.cat([tokens(1, 9), functional.pad(tokens(1, 5, seed=4), (4, 0))])
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    narrow, wide = windowed(6), windowed(64)
    for model in (narrow, wide):
        VIRTUAL[name].attach(model)
        assert logits(model, ids, attention_mask=torch.ones_like(mask)).isfinite().all()
    with pytest.raises(MethodError, match="sliding window of 6"):
        logits(narrow, ids, attention_mask=mask)
    both = logits(wide, ids, attention_mask=mask)
    torch.testing.assert_close(both[1:, 4:], logits(wide, ids[1:, 4:]), atol=2e-4, rtol=2e-4)


@virtual
def test_generating_on_from_a_cache_is_refused(name: str) -> None:
    """`generate` takes virtual tokens for real ones and would feed some twice; the model itself goes on rightly."""
    model = build("llama")
    VIRTUAL[name].attach(model).prepare_for_inference()
    first, more = tokens(1, 9), tokens(1, 4, seed=3)
    both = torch.cat([first, more], 1)

    def filled() -> Any:
        with torch.no_grad():
            return cache_of(model(input_ids=first, use_cache=True))

    with pytest.raises(MethodError, match="virtual tokens in a cache"):
        argument = {cache_argument(model): filled()}
        model.generate(both, attention_mask=torch.ones_like(both), max_new_tokens=2, **argument)
    went_on = logits(model, more, **{cache_argument(model): filled()})
    torch.testing.assert_close(went_on, logits(model, both)[:, 9:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("prefix")])
def test_gradients_are_the_same_with_checkpointing(name: str, family: str) -> None:
    """Running layers again for the backward pass, hooks and all, changes no gradient; a prefix refuses it."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build(family).train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        attached = CASES[name].attach(model)
        if checkpointing:
            recompute_activations(model)
        model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
        found.append({key: p.grad for key, p in attached.trained().items()})
    plain, recomputed = found
    for key, gradient in plain.items():
        assert gradient is not None
        torch.testing.assert_close(recomputed[key], gradient)


def test_a_prefix_refuses_checkpointing() -> None:
    """The model drops its cache there, and the prefix with it."""
    model = build("llama").train()
    PrefixTuning(num_virtual_tokens=5).attach(model)
    recompute_activations(model)
    with pytest.raises(MethodError, match="checkpointing"):
        model(input_ids=tokens(), labels=tokens())


@virtual
def test_a_cache_may_come_under_either_name(name: str) -> None:
    """A call that gives the cache, and None under the old name, goes on from that cache."""
    model = build("llama")
    VIRTUAL[name].attach(model).prepare_for_inference()
    ids = tokens(1, 9)
    with torch.no_grad():
        cache = cache_of(model(input_ids=ids[:, :-1], use_cache=True))
    last = logits(model, ids[:, -1:], **{"past_key_values": None, cache_argument(model): cache})
    torch.testing.assert_close(last, logits(model, ids)[:, -1:], atol=1e-4, rtol=1e-4)


@virtual
def test_the_inner_model_is_left_alone_between_calls(name: str) -> None:
    """After a call of the whole model, a call of the transformer inside it finds no leftover of a prefill."""
    model = build("llama")
    VIRTUAL[name].attach(model)
    with torch.no_grad():
        before = model.model(input_ids=tokens()).last_hidden_state
        logits(model, tokens())
        assert torch.equal(model.model(input_ids=tokens()).last_hidden_state, before)


@virtual
def test_logits_are_those_of_real_tokens(name: str) -> None:
    """However many are asked for, none of a virtual token comes back; nor a cache that nobody asked for."""
    model = build("llama")
    VIRTUAL[name].attach(model)
    whole = logits(model, tokens())
    assert logits(model, tokens(), logits_to_keep=12).shape == whole.shape
    torch.testing.assert_close(logits(model, tokens(), logits_to_keep=2), whole[:, -2:])
    with torch.no_grad():
        plain = model(input_ids=tokens(), use_cache=False, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == 1


@virtual
def test_a_mask_that_is_no_matrix_is_refused(name: str) -> None:
    """Four-dimensional masks, as for static caches, can't be lengthened."""
    model = build("llama")
    VIRTUAL[name].attach(model)
    with pytest.raises(MethodError, match="attention mask"):
        logits(model, tokens(), attention_mask=torch.ones(2, 1, 9, 9))


def saved(name: str, folder: Path, family: str = "llama") -> Path:
    attached = CASES[name].attach(build(family))
    train(attached)
    attached.prepare_for_inference()
    return attached.save(folder / "saved")


@pytest.mark.parametrize("name", [name for name in CASES if name != "full"])
def test_a_checkpoint_of_another_base_is_refused_and_leaves_the_model(name: str, tmp_path: Path) -> None:
    """A folder made on GPT-2 does not load into a Llama of the same width, and nothing of the Llama is changed."""
    path, model = saved(name, tmp_path, "gpt2"), build("llama")
    before, modules = state(model), [type(module) for module in model.modules()]
    with pytest.raises(MethodError, match="another base"):
        methods.load(model, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert [type(module) for module in model.modules()] == modules
    Adapter().attach(model)  # it holds nothing


def respell(folder: Path, change: Callable[[dict[str, str], dict[str, Any]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(metadata, tensors)
    save_file(tensors, path, metadata=metadata)


def resettle(metadata: dict[str, str], **changes: object) -> None:
    metadata["settings"] = json.dumps({**json.loads(metadata["settings"]), **changes})


A, B = (f"base_model.model.model.layers.{{}}.self_attn.q_proj.lora_{part}.weight" for part in "AB")
SPOILT: dict[str, Callable[[dict[str, str], dict[str, Any]], object]] = {
    "no settings": lambda metadata, _: metadata.pop("settings"),
    "no base": lambda metadata, _: metadata.pop("base"),
    "settings that are no JSON": lambda metadata, _: metadata.update(settings="{"),
    "settings that are a list": lambda metadata, _: metadata.update(settings="[1]"),
    "unknown setting": lambda metadata, _: resettle(metadata, colour="red"),
    "setting of the wrong type": lambda metadata, _: resettle(metadata, rank="four"),
    "targets that are a number": lambda metadata, _: resettle(metadata, targets=7),
    "ranks that are no numbers": lambda metadata, _: metadata.update(ranks='{"0.q": "four"}'),
    "ranks that are not all": lambda metadata, _: metadata.update(ranks="{}"),
    "another layout": lambda metadata, _: metadata.update(layout="peft-verdict/9"),
    "unknown method": lambda metadata, _: metadata.update(method="nonsense"),
    "tensor missing": lambda _, tensors: tensors.pop(A.format(0)),
    "tensor surplus": lambda _, tensors: tensors.update({A.format(9): torch.zeros(4, 32)}),
    "tensor without dimensions": lambda _, tensors: tensors.update({A.format(0): torch.zeros(())}),
    "tensor of another shape": lambda _, tensors: tensors.update({B.format(0): torch.zeros(5, 4)}),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_a_spoilt_checkpoint_is_refused_and_leaves_the_model(name: str, how: str, tmp_path: Path) -> None:
    """Whatever is wrong with a file, the base stays as it was: not frozen differently, not quantised, not occupied."""
    path, model = saved(name, tmp_path), build("llama")
    respell(path, SPOILT[how])
    modules = [type(module) for module in model.modules()]
    with pytest.raises(MethodError) as caught:
        methods.load(model, path)
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == modules
    Lora(rank=2).attach(model)


def test_a_checkpoint_with_other_tensors_leaves_the_model(tmp_path: Path) -> None:
    """Where a tensor is missing, the base keeps its modules and what of it requires gradients, and holds nothing."""
    path = saved("adapter", tmp_path) / "method.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    save_file(dict(list(load_file(path).items())[1:]), path, metadata=metadata)
    model = build("llama")
    model.model.norm.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = [type(module) for module in model.modules()]
    with pytest.raises(MethodError, match="lacks"):
        methods.load(model, path.parent)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert [type(module) for module in model.modules()] == modules
    Adapter().attach(model)


@pytest.mark.parametrize(
    ("method", "old", "new", "given"),
    [
        (PrefixTuning(num_virtual_tokens=5, reparametrize=True), "reparametrise", "reparametrize", True),
        (Qlora(rank=2, double_quantization=False), "double_quantisation", "double_quantization", False),
    ],
)
def test_settings_are_read_by_the_names_that_they_had_before(
    method: Method, old: str, new: str, given: bool, tmp_path: Path
) -> None:
    """A checkpoint that was written before a setting was renamed gives the method and the outputs that were saved."""
    attached = method.attach(build("llama"))
    attached.prepare_for_inference()
    expected = logits(attached.model, tokens())

    def rename(metadata: dict[str, str], _: object) -> None:
        settings = json.loads(metadata["settings"])
        assert settings.pop(new) is given
        metadata["settings"] = json.dumps({**settings, old: given})

    respell(attached.save(tmp_path), rename)
    model = build("llama")
    assert methods.load(model, tmp_path).method == method
    assert torch.equal(logits(model, tokens()), expected)


REFUSED: dict[str, Callable[[], Method]] = {
    "lora rank 0": lambda: Lora(rank=0),
    "lora rank 4.5": lambda: Lora(rank=4.5),  # type: ignore[arg-type]
    "lora alpha 0": lambda: Lora(alpha=0.0),
    "lora alpha nan": lambda: Lora(alpha=float("nan")),
    "lora dropout 1": lambda: Lora(dropout=1.0),
    "lora no targets": lambda: Lora(targets=()),
    "qlora no targets": lambda: Qlora(targets=()),
    "adalora beta 1": lambda: Adalora(total_steps=10, beta1=1.0),
    "adalora negative penalty": lambda: Adalora(total_steps=10, penalty_weight=-1.0),
    "adalora negative steps": lambda: Adalora(total_steps=10, final_steps=-5),
    "adalora start below rank": lambda: Adalora(total_steps=10, rank=8, start_rank=4),
    "adapter unknown placement": lambda: Adapter(placement="both"),  # type: ignore[arg-type]
    "adapter unknown activation": lambda: Adapter(activation="gelou"),
    "adapter activation with weights": lambda: Adapter(activation="prelu"),
    "prompt unknown start": lambda: PromptTuning(init="zero"),  # type: ignore[arg-type]
    "prefix negative deviation": lambda: PrefixTuning(init_std=-1.0),
    "deep prompts endless deviation": lambda: PTuningV2(init_std=float("inf")),
    "p-tuning unknown encoder": lambda: PTuning(encoder="gru"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_make_no_sense_are_refused(case: str) -> None:
    """Each class checks its own values when it is made, in one line that names the setting."""
    with pytest.raises(MethodError) as caught:
        REFUSED[case]()
    assert "\n" not in str(caught.value)


def test_a_method_that_can_not_run_says_what_becomes_of_the_run() -> None:
    """The status that `Unsupported` carries is one that a record may have."""
    assert Status(Unsupported("the platform lacks a library").status) is Status.SKIPPED


def test_ranks_are_even_where_there_are_no_data() -> None:
    """On the meta device nothing is more important than anything else: each projection keeps the average rank."""
    attached = Adalora(rank=2, start_rank=5, total_steps=10).attach(build("llama").to("meta"))
    assert attached.trained()["0.q.lam"].shape == (5,)
    attached.prepare_for_inference()
    assert {t.shape[0] for name, t in attached.shipped().items() if name.endswith(".A")} == {2}


def test_one_target_need_not_be_in_a_list() -> None:
    """A bare string is one name, not its letters."""
    assert Lora(targets="all-linear").targets == ("all-linear",)  # type: ignore[arg-type]


def test_a_family_with_other_layers_is_refused_by_name() -> None:
    """A mixture of experts whose first layer alone is like a Llama's is no Llama; the missing names are told."""
    config = AutoConfig.for_model(
        "qwen3_moe",
        **{**FAMILIES["qwen3"], "num_experts": 4, "moe_intermediate_size": 16, "mlp_only_layers": [0]},
    )
    with pytest.raises(MethodError, match="down_proj"):
        Adapter().attach(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("targets", [("q", "v"), ("q", "k", "v")])
def test_the_parts_of_a_fused_matrix_are_no_layers(targets: tuple[str, ...], tmp_path: Path) -> None:
    """With more adapted parts of one matrix than layers in the model, its shape is read as before, and so is a file."""
    config = AutoConfig.for_model("gpt2", **{**FAMILIES["gpt2"], "n_layer": 1})
    model, again = (AutoModelForCausalLM.from_config(config).eval() for _ in range(2))
    again.load_state_dict(model.state_dict())
    attached = Lora(rank=2, targets=targets).attach(model)
    train(attached)
    attached.save(tmp_path)
    methods.load(again, tmp_path)
    torch.testing.assert_close(logits(again, tokens()), logits(model, tokens()))
