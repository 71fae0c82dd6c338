"""Checkpoints in Hugging Face peft's format: ours load in peft, peft's load here, and outputs stay equal either way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import methods
from methods import Method, MethodError
from methods.adalora import Adalora, AdaloraAttached
from methods.checkpoint import read_checkpoint
from methods.lora import Lora
from methods.prefix_tuning import PrefixTuning
from methods.prompt_tuning import PromptTuning
from methods.qlora import Qlora, quantize
from methods.settings import IMPLEMENTATION
from tests.families import build
from tests.test_conformance import CASES, STEPS, logits, tokens, train, trained

pytestmark = [
    # peft still uses names that transformers 5.24 has renamed
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
    # that a rank of 0 is saved, which is what pruning may come to
    pytest.mark.filterwarnings("ignore:Adapter 'default'. [0-9]+ LoRA tensor.s. have invalid shape"),
]
families = pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gpt2", "gpt_bigcode", "gpt_bigcode-heads", "gpt_neox", "opt"]
)
SHARED = [name for name, method in CASES.items() if method.peft_format() is not None]
EXACT = {"atol": 2e-6, "rtol": 1e-5}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def in_peft(folder: Path, family: str, quantised: bool = False) -> PeftModel:
    """A fresh base with the folder's adapter, by peft's own loader."""
    base = build(family)
    if quantised:
        quantize(base, double_quantization=True)
        base.is_loaded_in_4bit = True
    return PeftModel.from_pretrained(base, folder)


def peft_logits(model: PeftModel, ids: Tensor) -> Tensor:
    """Logits of the real tokens; peft gives those of virtual ones too."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]


def config_of(folder: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((folder / CONFIG).read_text()))


def reconfigure(folder: Path, **changes: object) -> None:
    (folder / CONFIG).write_text(json.dumps({**config_of(folder), **changes}))


def respell(folder: Path, change: Callable[[dict[str, Tensor]], object], own: bool = False) -> None:
    """Changes the tensors; unless ``own``, the header becomes what peft writes."""
    path = folder / TENSORS
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=header if own else {"format": "pt"})


def test_what_peft_has_is_registered_by_a_module() -> None:
    """Of the methods here these are kept in peft's format; peft's own checkpoints become all of them but QLoRA."""
    formats = {name: kind.peft_format() for name, kind in methods.available().items()}
    found = {name: peft.PEFT_TYPE for name, peft in formats.items() if peft is not None}
    assert found == {
        "adalora": "ADALORA",
        "lora": "LORA",
        "p_tuning": "P_TUNING",
        "prefix_tuning": "PREFIX_TUNING",
        "prompt_tuning": "PROMPT_TUNING",
        "qlora": None,
    }


def test_a_method_of_another_package_is_not_taken_for_ours(tmp_path: Path) -> None:
    """One that is called as a method of ours is kept in its own file, with its own tensors."""

    class Lora(methods.lora.Lora):
        """The same name in another package."""

    attached = Lora(rank=2).attach(build("llama"))
    folder = attached.save(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["method.safetensors"]
    assert load_file(folder / "method.safetensors").keys() == attached.trained().keys()


# --- ours in peft


@families
@pytest.mark.parametrize("case", SHARED)
def test_ours_loads_in_peft(case: str, family: str, tmp_path: Path) -> None:
    """peft gives, on a fresh base, the outputs that were saved, and none that the base alone would give."""
    attached = trained(case, family)
    folder = attached.save(tmp_path / "deep" / "down")
    attached.prepare_for_inference()
    expected = logits(attached.model, tokens())
    assert not torch.allclose(expected, logits(build(family), tokens()), atol=1e-2)
    loaded = in_peft(folder, family, quantised=case == "qlora")
    torch.testing.assert_close(peft_logits(loaded, tokens()), expected, **EXACT)


def greedily(forward: Callable[[Tensor], Tensor], ids: Tensor, count: int = 6) -> Tensor:
    """The most probable ``count`` tokens, everything computed anew for each."""
    for _ in range(count):
        last = forward(ids)[:, -1]
        last[:, 2] = -torch.inf  # no end before that
        ids = torch.cat([ids, last.argmax(-1, keepdim=True)], dim=1)
    return ids


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("case", ["prompt_tuning", "p_tuning", "prefix_tuning", "lora", "adalora"])
def test_peft_goes_on_as_ours_does(case: str, family: str, tmp_path: Path) -> None:
    """Ours generates the tokens that peft's forward pass makes the most probable, and that peft's `generate` gives.

    The last only where there are no virtual tokens: peft 0.21 looks for a cache by the name that it had before
    transformers 5.24, finds none, and so puts its prompt before each new token and leaves its prefix away.
    """
    attached = trained(case, family)
    attached.prepare_for_inference()
    loaded = in_peft(attached.save(tmp_path), family)
    ids = tokens()
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    ours = attached.model.generate(ids, **options)
    assert torch.equal(greedily(lambda sequence: peft_logits(loaded, sequence), ids), ours)
    if not attached.method.virtual_tokens:
        assert torch.equal(loaded.generate(input_ids=ids, **options), ours)


MIXED = {
    "q, k, o": Lora(rank=3, targets=("q", "k", "o")),
    "v, q": Lora(rank=3, alpha=5.0, targets=("v", "q"), rslora=True),
    "qkv, down": Lora(rank=4, targets=("qkv", "down"), dropout=0.1),
    "k, all of the feed-forward": Lora(rank=2, alpha=7.0, targets=("k", "up", "down"), rslora=True),
}


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt", "gpt_bigcode", "gpt_bigcode-heads", "gpt_neox"])
@pytest.mark.parametrize("case", MIXED)
def test_parts_of_a_fused_matrix_are_one_product_in_peft(case: str, family: str, tmp_path: Path) -> None:
    """Any parts, in any order, beside whole modules: equal in peft, and here the very method, bit for bit."""
    attached = MIXED[case].attach(build(family))
    train(attached)
    attached.prepare_for_inference()
    folder, expected = attached.save(tmp_path), logits(attached.model, tokens())
    torch.testing.assert_close(peft_logits(in_peft(folder, family), tokens()), expected, **EXACT)
    fresh = build(family)
    assert methods.load(fresh, folder).method == MIXED[case]
    assert torch.equal(logits(fresh, tokens()), expected)


@pytest.mark.parametrize("empty", [1, 5])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_bigcode", "gpt_neox"])
def test_modules_that_lost_every_rank_are_left_out(family: str, empty: int, tmp_path: Path) -> None:
    """peft has no LoRA of rank 0: such modules are not among its targets, and are there again when loaded here."""
    attached = CASES["adalora"].attach(build(family))
    assert isinstance(attached, AdaloraAttached)
    train(attached)
    for kept in attached.keep[:empty]:
        kept[:] = False
    attached.prepare_for_inference()
    folder, expected = attached.save(tmp_path), logits(attached.model, tokens())
    torch.testing.assert_close(peft_logits(in_peft(folder, family), tokens()), expected, **EXACT)
    fresh = build(family)
    loaded = methods.load(fresh, folder)
    assert loaded.method == attached.method
    assert torch.equal(logits(fresh, tokens()), expected)
    assert {name: t.shape for name, t in loaded.shipped().items()} == {
        name: t.shape for name, t in attached.shipped().items()
    }


def test_a_method_that_lost_every_rank_is_kept(tmp_path: Path) -> None:
    """Without any rank left, peft gets a product of zeros: the outputs are the base's, in peft and here."""
    attached = CASES["adalora"].attach(build("llama"))
    assert isinstance(attached, AdaloraAttached)
    for kept in attached.keep:
        kept[:] = False
    folder, expected = attached.save(tmp_path), logits(build("llama"), tokens())
    assert torch.equal(peft_logits(in_peft(folder, "llama"), tokens()), expected)
    fresh = build("llama")
    methods.load(fresh, folder)
    assert torch.equal(logits(fresh, tokens()), expected)


@pytest.mark.parametrize("case", [name for name, method in CASES.items() if method.implementation == IMPLEMENTATION])
def test_saving_does_not_wait_for_serving(case: str, tmp_path: Path) -> None:
    """What is saved in the midst of training is, bit for bit, what is saved in serving form, and after a reload."""
    attached = trained(case, "gpt2")
    folders = [attached.save(tmp_path / "training")]
    attached.prepare_for_inference()
    folders.append(attached.save(tmp_path / "serving"))
    folders.append(methods.load(build("gpt2"), folders[0]).save(tmp_path / "again"))
    assert {path.name for path in folders[0].iterdir()} == (
        {CONFIG, TENSORS} if case in SHARED else {"method.safetensors"}
    )
    first, *others = [read_checkpoint(folder) for folder in folders]
    for other in others:
        assert (other.origin, other.config) == (first.origin, first.config)
        assert other.tensors.keys() == first.tensors.keys()
        assert all(torch.equal(other.tensors[name], first.tensors[name]) for name in first.tensors)


@pytest.mark.parametrize(
    ("family", "targets", "names"),
    [
        ("llama", ("q", "v"), ["q_proj", "v_proj"]),
        ("gpt2", ("q",), ["c_attn"]),
        ("gpt2", ("o",), ["attn.c_proj"]),
        ("gpt2", ("c_proj",), ["c_proj"]),
        ("opt", ("all-linear",), ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]),
    ],
)
def test_modules_are_named_shortly_and_without_doubt(
    family: str, targets: tuple[str, ...], names: list[str], tmp_path: Path
) -> None:
    """Names are the last parts of paths, as people write them, and longer where those would match too much."""
    folder = Lora(rank=2, targets=targets).attach(build(family)).save(tmp_path)
    assert config_of(folder)["target_modules"] == names


# --- peft in ours

LINEAR = {"llama": ["q_proj", "v_proj"], "qwen3": ["q_proj", "v_proj"], "opt": ["q_proj", "v_proj"]}
LINEAR |= {name: ["c_attn"] for name in ("gpt2", "gpt_bigcode", "gpt_bigcode-heads")}
LINEAR |= {"gpt_neox": ["query_key_value"]}
TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
VIRTUAL: dict[str, Any] = {**TASK, "num_virtual_tokens": 5}
THEIRS: dict[str, Callable[[str], Any]] = {
    "lora": lambda family: LoraConfig(r=4, lora_alpha=6, target_modules=LINEAR[family], **TASK),
    "lora-no-task": lambda family: LoraConfig(r=4, target_modules=LINEAR[family], init_lora_weights="gaussian"),
    "lora-rslora": lambda family: LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=LINEAR[family], **TASK),
    "lora-all-linear": lambda _: LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear", **TASK),
    "lora-patterns": lambda family: LoraConfig(
        r=4,
        use_rslora=True,
        target_modules="all-linear",
        rank_pattern={rf".*\.0\..*\.{LINEAR[family][0]}": 2, rf".*\.1\..*\.{LINEAR[family][-1]}": 3},
        alpha_pattern={rf".*[a-z]+\.0\..*\.{LINEAR[family][0]}": 5},
        **TASK,
    ),
    "lora-some-layers": lambda family: LoraConfig(
        r=4, target_modules=rf".*\.[02]\..*\.({'|'.join(LINEAR[family])})", **TASK
    ),
    "adalora": lambda family: AdaLoraConfig(
        init_r=4, target_r=2, tinit=0, tfinal=1, total_step=STEPS, lora_alpha=6, target_modules=LINEAR[family], **TASK
    ),
    "adalora-unpruned": lambda family: AdaLoraConfig(
        init_r=4, target_r=2, tinit=STEPS, total_step=2 * STEPS, target_modules=LINEAR[family], **TASK
    ),
    "prompt": lambda _: PromptTuningConfig(**VIRTUAL),
    "prompt-vocabulary": lambda _: PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **VIRTUAL),
    "p-tuning-lstm": lambda _: PromptEncoderConfig(
        encoder_reparameterization_type="LSTM", encoder_hidden_size=12, encoder_num_layers=3, **VIRTUAL
    ),
    "p-tuning-mlp": lambda _: PromptEncoderConfig(encoder_hidden_size=12, **VIRTUAL),
    "prefix": lambda _: PrefixTuningConfig(**VIRTUAL),
    "prefix-projected": lambda _: PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=12, **VIRTUAL),
}
WRONG_WAY_ROUND = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
"""peft tells that GPT-2's weights are transposed and goes on rightly."""


def peft_trained(case: str, family: str) -> PeftModel:
    """A few steps with peft alone."""
    torch.manual_seed(7)
    model = get_peft_model(build(family), THEIRS[case](family))
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.05)
    for step in range(1, STEPS + 1):
        ids = tokens(seed=step)
        model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss.backward()
        optimizer.step()
        if hasattr(model.base_model, "update_and_allocate"):
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return cast(PeftModel, model.eval())


@WRONG_WAY_ROUND
@families
@pytest.mark.parametrize("case", THEIRS)
def test_peft_loads_in_ours(case: str, family: str, tmp_path: Path) -> None:
    """What peft trained and saved gives the same outputs here, on a fresh base, and again when saved and loaded."""
    model = peft_trained(case, family)
    model.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    expected = peft_logits(model, tokens())
    fresh = build(family)
    attached = methods.load(fresh, tmp_path / "theirs")
    torch.testing.assert_close(logits(fresh, tokens()), expected, **EXACT)
    assert attached.trained() == {}
    saved = attached.save(tmp_path / "ours")
    torch.testing.assert_close(peft_logits(in_peft(saved, family), tokens()), expected, **EXACT)


def test_settings_come_from_peft(tmp_path: Path) -> None:
    """The method that is read has peft's numbers, and roles for names of modules."""
    for case in ("lora-rslora", "adalora", "prefix-projected"):
        peft_trained(case, "llama").save_pretrained(tmp_path / case, save_embedding_layers=False)
    assert methods.load(build("llama"), tmp_path / "lora-rslora").method == Lora(rank=4, alpha=6, rslora=True)
    expected = Adalora(rank=2, start_rank=4, total_steps=STEPS, initial_steps=0, final_steps=1, alpha=6)
    assert methods.load(build("llama"), tmp_path / "adalora").method == expected
    prefix = PrefixTuning(num_virtual_tokens=5, reparametrize=True, encoder_hidden_size=12)
    assert methods.load(build("llama"), tmp_path / "prefix-projected").method == prefix


# --- refusals


def refused(folder: Path, match: str, family: str = "llama") -> None:
    """Loading fails in one line, and leaves a model that is as it was and holds nothing."""
    model = build(family)
    modules = [type(module) for module in model.modules()]
    with pytest.raises(MethodError, match=match) as caught:
        methods.load(model, folder)
    assert "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == modules
    Lora(rank=2).attach(model)


def plain(method: Method, folder: Path, family: str = "llama") -> Path:
    """A folder as peft would have written it."""
    attached = method.attach(build(family))
    respell(attached.save(folder), lambda _: None)
    return folder


UNABLE: dict[str, tuple[Method, dict[str, object], str]] = {
    "DoRA": (Lora(), {"use_dora": True}, "use_dora"),
    "biases": (Lora(), {"bias": "all"}, "bias"),
    "biases of B": (Lora(), {"lora_bias": True}, "lora_bias"),
    "other modules": (Lora(), {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "tokens": (Lora(), {"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "parameters": (Lora(), {"target_parameters": ["x"]}, "target_parameters"),
    "exclusions": (Lora(), {"exclude_modules": ["v_proj"]}, "exclude_modules"),
    "some layers": (Lora(), {"layers_to_transform": [0]}, "layers_to_transform"),
    "layer 0": (Lora(), {"layers_to_transform": 0}, "layers_to_transform"),
    "a key of a later peft": (Lora(), {"use_the_newest": {"thing": 1}}, "use_the_newest"),
    "PiSSA": (Lora(), {"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "LoftQ": (Lora(), {"init_lora_weights": "loftq"}, "loftq"),
    "the output head": (Lora(), {"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    "no module": (Lora(), {"target_modules": ["nonsense"]}, "nonsense"),
    "another type": (Lora(), {"peft_type": "VERA"}, "VERA"),
    "another task": (Lora(), {"task_type": "SEQ_CLS"}, "SEQ_CLS"),
    "two stacks": (PromptTuning(), {"num_transformer_submodules": 2}, "num_transformer_submodules"),
    "modules beside a prompt": (PromptTuning(), {"modules_to_save": ["lm_head"]}, "modules_to_save"),
}
SENSELESS: dict[str, tuple[Method, dict[str, object]]] = {
    "a rank in letters": (Lora(), {"r": "four"}),
    "no rank": (Lora(), {"rank_pattern": {"q_proj": 0}}),
    "half a rank": (Lora(), {"rank_pattern": {"q_proj": 1.5}}),
    "an alpha in letters": (Lora(), {"alpha_pattern": {"q_proj": "much"}}),
    "an alpha beyond numbers": (Lora(), {"lora_alpha": 10**400}),
    "no alpha": (Lora(), {"lora_alpha": 0}),
    "no targets": (Lora(), {"target_modules": None}),
    "a number for targets": (Lora(), {"target_modules": 4}),
    "a torn pattern": (Lora(), {"target_modules": "("}),
    "a torn pattern of ranks": (Lora(), {"rank_pattern": {"(": 4}}),
    "a list for a pattern": (Lora(), {"rank_pattern": [4]}),
    "no tokens": (PromptTuning(), {"num_virtual_tokens": None}),
    "AdaLoRA without steps": (Lora(), {"peft_type": "ADALORA"}),
    "an unknown encoder": (CASES["p_tuning"], {"encoder_reparameterization_type": "GRU"}),
}


@pytest.mark.parametrize("what", UNABLE)
def test_what_ours_can_not_do_is_refused(what: str, tmp_path: Path) -> None:
    """One line names the key or its value and says that peft itself will do."""
    method, changes, word = UNABLE[what]
    reconfigure(plain(method, tmp_path), **changes)
    refused(tmp_path, word)
    if what != "no module":
        refused(tmp_path, "peft itself")


@pytest.mark.parametrize("what", SENSELESS)
def test_a_senseless_configuration_is_refused(what: str, tmp_path: Path) -> None:
    """Whatever JSON stands there, the refusal is of our kind."""
    method, changes = SENSELESS[what]
    reconfigure(plain(method, tmp_path), **changes)
    refused(tmp_path, ".")


LORA_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
SPOILT: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "missing": ("lora", lambda tensors: tensors.pop(LORA_A), "lacks base_model"),
    "none at all": ("lora", lambda tensors: tensors.clear(), "lacks base_model"),
    "surplus": ("lora", lambda tensors: tensors.update(more=torch.zeros(2)), "holds more"),
    "shape": ("lora", lambda tensors: tensors.update({LORA_A: torch.zeros(4, 31)}), "shape"),
    "no dimension": ("lora", lambda tensors: tensors.update({LORA_A: torch.zeros(())}), "shape"),
    "prompt missing": ("prompt_tuning", lambda tensors: tensors.clear(), "lacks prompt_embeddings"),
    "prompt surplus": ("p_tuning", lambda tensors: tensors.update(more=torch.zeros(2)), "holds more"),
    "prefix shape": ("prefix_tuning", lambda tensors: tensors.update(prompt_embeddings=torch.zeros(5, 9)), "shape"),
    "adalora missing": ("adalora", lambda tensors: tensors.pop(next(iter(tensors))), "lacks base_model"),
    "qlora surplus": ("qlora", lambda tensors: tensors.update(more=torch.zeros(2)), "holds more"),
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_tensors_are_refused(how: str, own: bool, tmp_path: Path) -> None:
    """A missing, surplus or wrongly shaped tensor is named, in a folder of ours as in one of peft."""
    case, change, message = SPOILT[how]
    respell(CASES[case].attach(build("llama")).save(tmp_path), change, own)
    refused(tmp_path, message)


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_spoilt_triplets_are_refused(change: str, tmp_path: Path) -> None:
    """The same for a checkpoint of peft's AdaLoRA."""
    peft_trained("adalora", "llama").save_pretrained(tmp_path, save_embedding_layers=False)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_E"
    changes: dict[str, Callable[[dict[str, Tensor]], object]] = {
        "missing": lambda tensors: tensors.pop(name),
        "surplus": lambda tensors: tensors.update({f"{name}2": torch.zeros(2)}),
        "shape": lambda tensors: tensors.update({name: torch.zeros(7, 1)}),
    }
    respell(tmp_path, changes[change])
    refused(tmp_path, "lora_E")


def test_numbers_outside_the_parts_of_a_fused_matrix_are_refused(tmp_path: Path) -> None:
    """A method that adapts q and v alone does not pass over what a changed file adds to k."""
    folder = Lora(rank=2).attach(build("gpt2")).save(tmp_path)
    respell(
        folder, lambda tensors: tensors["base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"].fill_(1), True
    )
    refused(folder, "has numbers where", "gpt2")


def test_folders_that_hold_no_checkpoint_are_refused(tmp_path: Path) -> None:
    """Absent, a file, empty, without weights, with pickled ones, with a torn file, or with two methods."""
    refused(tmp_path / "absent", "no folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "no folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "method.safetensors")
    for name in (CONFIG, TENSORS):
        folder = Lora().attach(build("llama")).save(tmp_path / f"without {name}")
        (folder / name).rename(folder / "adapter_model.bin")
        refused(folder, name)
    for text in ("{", "[1]", "{}", '{"peft_type": ["LORA"]}', "\0"):
        folder = plain(Lora(), tmp_path / "torn")
        (folder / CONFIG).write_text(text)
        refused(folder, "torn")
    (folder / TENSORS).write_bytes(b"torn")
    refused(folder, TENSORS)
    both = Lora().attach(build("llama")).save(tmp_path / "both")
    other = CASES["adapter"].attach(build("llama")).save(tmp_path / "other")
    (other / "method.safetensors").rename(both / "method.safetensors")
    refused(both, "two checkpoints")


def test_what_is_no_place_for_a_folder_is_refused(tmp_path: Path) -> None:
    """Saving does not overwrite a file, nor join a method of the other format."""
    attached = CASES["adapter"].attach(build("llama"))
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(MethodError, match="can't be made a folder"):
            attached.save(path)
    (tmp_path / "taken" / "method.safetensors").mkdir(parents=True)
    with pytest.raises(MethodError, match="can't be written"):
        attached.save(tmp_path / "taken")
    folder = Lora().attach(build("llama")).save(tmp_path / "lora")
    with pytest.raises(MethodError, match="another method's"):
        attached.save(folder)


def test_a_method_loads_what_has_its_settings(tmp_path: Path) -> None:
    """`Method.load` takes its own folders, refuses those of other settings and methods, and reads peft's as well."""
    method = Lora(rank=3)
    attached = method.attach(build("llama"))
    train(attached)
    folder, expected = attached.save(tmp_path / "ours"), logits(attached.model, tokens())
    for other in (Lora(rank=4), Qlora(rank=3), PromptTuning()):
        with pytest.raises(MethodError):
            other.load(build("llama"), folder)
    for header in ("ours", "peft's"):
        fresh = build("llama")
        assert method.load(fresh, folder).method == method
        assert torch.equal(logits(fresh, tokens()), expected), header
        respell(folder, lambda _: None)


@pytest.mark.parametrize("case", ["lora", "prefix_tuning"])
def test_a_base_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    """peft's folder does not say what base it is of; names and shapes do."""
    refused(plain(CASES[case], tmp_path, "gpt2"), "c_attn|shape", "gemma")
