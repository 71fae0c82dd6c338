"""Hugging Face peft inside the harness: what it runs is what is measured."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from omegaconf import OmegaConf
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoConfig, AutoModelForCausalLM

from bench.workload.training import weight_tensors
from methods import MethodError, Unsupported
from methods.peft import Peft
from tests.families import FAMILIES, build
from tests.test_conformance import logits, tokens, train

STUDY = Path(__file__).parent.parent / "conf" / "study" / "peft.yaml"
STEPS = 4
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LORA", {"r": 4}),
    "dora": ("LORA", {"r": 4, "use_dora": True}),
    "pissa": ("LORA", {"r": 4, "init_lora_weights": "pissa"}),
    "adalora": ("ADALORA", {"target_r": 2, "init_r": 4, "tfinal": 1}),
    "ia3": ("IA3", {}),
    "vera": ("VERA", {"r": 16}),
    "oft": ("OFT", {"oft_block_size": 8}),
    "boft": ("BOFT", {"boft_block_size": 4}),
    "loha": ("LOHA", {"r": 4}),
    "lokr": ("LOKR", {"r": 4}),
    "hra": ("HRA", {"r": 4}),
    "fourierft": ("FOURIERFT", {"n_frequency": 50}),
    "miss": ("MISS", {"r": 4}),
    "randlora": ("RANDLORA", {"r": 4}),
    "shira": ("SHIRA", {"r": 2}),
    "ln_tuning": ("LN_TUNING", {}),
    "c3a": ("C3A", {"block_size": 8}),
    "prompt_tuning": ("PROMPT_TUNING", {"num_virtual_tokens": 5}),
    "p_tuning": ("P_TUNING", {"num_virtual_tokens": 5, "encoder_reparameterization_type": "LSTM"}),
    "prefix_tuning": ("PREFIX_TUNING", {"num_virtual_tokens": 5, "prefix_projection": True}),
    "multitask": ("MULTITASK_PROMPT_TUNING", {"num_virtual_tokens": 5}),
    "cpt": ("CPT", {"cpt_token_ids": list(range(3, 11)), "cpt_tokens_type_mask": list(range(1, 9))}),
    "poly": ("POLY", {"r": 4}),
}
UNMERGED_ONLY = {"prompt_tuning", "p_tuning", "prefix_tuning", "multitask", "cpt", "poly"}

pytestmark = pytest.mark.filterwarnings("ignore")  # peft warns of its own choices, and of transformers' new names
cases = pytest.mark.parametrize("case", CASES)


def method(case: str) -> Peft:
    kind, config = CASES[case]
    return Peft(type=kind, config=config, total_steps=STEPS)


def saved(case: str, folder: Path) -> tuple[torch.Tensor, Path]:
    """The logits of a trained method, and where it was saved."""
    torch.manual_seed(7)
    attached = method(case).attach(build("llama"))
    train(attached, STEPS, rate=0.02)
    attached.prepare_for_inference()
    return logits(attached.model, tokens()), attached.save(folder / "checkpoint")


def test_boft_leaves_the_compilers_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """peft names others for its kernels, and without a card leaves it at that: compiled cells would not link."""
    monkeypatch.setenv("CC", "mine")
    monkeypatch.delenv("CXX", raising=False)
    _, folder = saved("boft", tmp_path)
    method("boft").load(build("llama"), folder)
    assert (os.environ.get("CC"), os.environ.get("CXX")) == ("mine", None)


@cases
def test_logits_are_of_the_real_tokens(case: str) -> None:
    """Whatever stands in front of them, a row of logits belongs to each token that was given."""
    model = build("llama")
    before = logits(model, tokens())
    attached = method(case).attach(model)
    assert logits(attached.model.eval(), tokens()).shape == before.shape


@cases
def test_only_its_own_parameters_train(case: str) -> None:
    """What trains is what peft says, the base is not among it, and training changes the output."""
    model = build("llama")
    base = {id(parameter) for parameter in model.parameters()}
    attached = method(case).attach(model)
    assert not base & {id(parameter) for parameter in attached.trained().values()}
    before = logits(attached.model.eval(), tokens())
    train(attached, STEPS, rate=0.02)
    assert not torch.equal(logits(attached.model, tokens()), before)
    attached.prepare_for_inference()
    assert attached.trained() == {}


@cases
def test_a_checkpoint_gives_the_same_outputs(case: str, tmp_path: Path) -> None:
    """A trained method, saved and loaded into a new base, answers as it did."""
    expected, folder = saved(case, tmp_path)
    loaded = method(case).load(build("llama"), folder)
    torch.testing.assert_close(logits(loaded.model.eval(), tokens()), expected, atol=2e-5, rtol=2e-5)
    assert loaded.trained() == {}
    assert sorted(file.name for file in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@cases
def test_a_cache_changes_no_output(case: str, tmp_path: Path) -> None:
    """A token decoded on a filled cache gets the logits that it gets when all is computed anew."""
    model = method(case).load(build("llama"), saved(case, tmp_path)[1]).model.eval()
    ids = tokens()
    with torch.no_grad():
        filled = model(input_ids=ids[:, :-1], use_cache=True)
        cache = getattr(filled, "cache", None) or filled.past_key_values
        name = "cache" if hasattr(filled, "cache") else "past_key_values"
        step = model(input_ids=ids[:, -1:], use_cache=True, **{name: cache}).logits
    torch.testing.assert_close(step[:, -1], logits(model, ids)[:, -1], atol=2e-4, rtol=2e-4)


@cases
def test_merging(case: str, tmp_path: Path) -> None:
    """A merged method answers as before and leaves the base's module tree; what can't be merged says so."""
    expected, folder = saved(case, tmp_path)
    attached = method(case).load(build("llama"), folder)
    if case in UNMERGED_ONLY:
        with pytest.raises(Unsupported):
            attached.merge()
        return
    attached.merge()
    torch.testing.assert_close(logits(attached.model.eval(), tokens()), expected, atol=2e-4, rtol=2e-4)
    assert attached.resident() == {}
    if case != "ln_tuning":
        assert [type(m) for m in attached.model.modules()] == [type(m) for m in build("llama").modules()]


def test_merging_leaves_a_model_alone_that_shares_the_weights(tmp_path: Path) -> None:
    """Arms that share storage, since copies did not fit, stay what they were when another one merges."""
    _, folder = saved("lora", tmp_path)
    base = build("llama")
    twin = copy.deepcopy(base, {id(tensor): tensor for tensor in weight_tensors(base)})
    before = logits(twin, tokens())
    method("lora").load(base, folder).merge()
    assert torch.equal(logits(twin, tokens()), before)


def test_the_rank_budget_is_kept(tmp_path: Path) -> None:
    """peft's allocator is called after every step, and its ranks are reported."""
    attached = method("adalora").attach(build("llama"))
    train(attached, STEPS)
    ranks = attached.metadata()["ranks"]
    assert isinstance(ranks, dict)
    assert sum(ranks.values()) == 2 * len(ranks)


def test_adapters_are_float32_on_a_bfloat16_base() -> None:
    """peft keeps what it trains in float32, whatever the base is."""
    model = build("llama").to(torch.bfloat16)
    attached = method("lora").attach(model)
    assert {parameter.dtype for parameter in attached.trained().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("kind", "config", "says"),
    [
        ("VERO", {}, "has no type VERO; did you mean VERA?"),
        ("LORA", {"rank": 3}, "LoraConfig of peft has no key rank"),
        ("LORA", {"target_modules": ["nothing"]}, "Target modules {'nothing'} not found"),
        ("LORA", {"r": -1}, "peft refuses LORA"),
        ("PROMPT_TUNING", {}, "peft refuses PROMPT_TUNING"),
        ("VBLORA", {}, "must be divisible by `vector_length`"),
        ("CPT", {}, "the loss is nan at these settings"),
    ],
)
def test_refusals_are_one_line(kind: str, config: dict[str, Any], says: str) -> None:
    """What peft has not or does not take is refused with its reason, in one line."""
    with pytest.raises(Unsupported) as caught:
        Peft(type=kind, config=config).attach(build("llama"))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_that_a_type_refuses() -> None:
    """GPT-2's Conv1D is not for every type."""
    with pytest.raises(Unsupported, match="Conv1D"):
        Peft(type="LOHA").attach(build("gpt2"))


def test_any_family_will_do() -> None:
    """peft needs no architecture that is known here: a model of an unknown family is measured too."""
    sizes = {
        key: value for key, value in FAMILIES["llama"].items() if "key_value" not in key and "intermediate" not in key
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **sizes, n_head=4, n_layer=3))
    attached = Peft(type="LORA").attach(model.eval())
    train(attached, STEPS)
    assert attached.trained()


@pytest.mark.parametrize("damage", ["missing", "surplus", "no config", "no folder", "torn"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path) -> None:
    """Keys that are missing or too many, and files that are not there or torn: one line, whatever peft would do."""
    from safetensors.torch import load_file, save_file

    _, folder = saved("lora", tmp_path)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    if damage == "missing":
        save_file(dict(list(tensors.items())[1:]), weights)
    elif damage == "surplus":
        save_file({**tensors, "base_model.model.nowhere.lora_A.weight": torch.ones(4, 4)}, weights)
    elif damage == "no config":
        (folder / "adapter_config.json").unlink()
    elif damage == "torn":
        weights.write_bytes(b"no tensors")
    with pytest.raises(MethodError) as caught:
        method("lora").load(build("llama"), tmp_path / "elsewhere" if damage == "no folder" else folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not peft.__version__.startswith("0.21."), reason="the study lists the types of peft 0.21")
def test_the_study_has_every_type() -> None:
    """``study=peft`` leaves none out of what this release of peft registers."""
    grids = OmegaConf.load(STUDY).study.grids
    listed = {name.strip() for grid in grids for name in grid["peft.type"].split(",")}
    assert listed == {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING}


@pytest.mark.parametrize("refused", ["attach", "load"])
def test_a_refusal_leaves_the_model_as_it_was(refused: str, tmp_path: Path) -> None:
    """What peft had put into the model when it turned out that it can't stay is taken out again."""
    model = build("llama")
    before = logits(model, tokens())
    with pytest.raises(MethodError):
        if refused == "attach":
            Peft(type="TRAINABLE_TOKENS").attach(model)  # attaches, and fails at the first call
        else:
            Peft(type="LORA", config={"r": 8}).load(model, saved("lora", tmp_path)[1])  # which has rank 4
    assert [type(module) for module in model.modules()] == [type(module) for module in build("llama").modules()]
    assert torch.equal(logits(model, tokens()), before)
    method("lora").attach(model)


def test_a_base_that_an_initialisation_changed_is_not_given_back() -> None:
    """PiSSA takes its start from the base weights, so detaching would leave another base behind."""
    with pytest.raises(MethodError, match="changed the base weights"):
        method("pissa").attach(build("llama")).detach()


def test_a_model_card_is_left_alone(tmp_path: Path) -> None:
    """peft's own saving writes one; whoever keeps an adapter in a repository has written theirs."""
    attached = method("lora").attach(build("llama"))
    (tmp_path / "README.md").write_text("mine")
    attached.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("case", "inside"), [("lora", True), ("vera", True), ("poly", False), ("prompt_tuning", False)]
)
def test_what_is_called_is_what_generates(case: str, inside: bool, tmp_path: Path) -> None:
    """When peft generates, the wrapper runs once and the model inside once a token; some types need the wrapper."""
    base = build("llama")
    attached = method(case).load(base, saved(case, tmp_path)[1])
    assert (attached.model is base) == inside
