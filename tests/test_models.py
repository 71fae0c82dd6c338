"""Base models and tokenizers: architectures as published, errors in one line, a tokenizer that is the same for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from bench.config.sources import BUILTIN, Attention, Dtype, ModelConfig, ModelSource, SourceError, is_local
from bench.workload.models import (
    TOKENIZER_FILE,
    VOCABULARY_SIZE,
    build_tokenizer,
    load_model,
    load_tokenizer,
    meta_model,
)

FOLDER = Path(__file__).parent.parent / "conf" / "model"
PUBLISHED_PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "pythia-410m": 405_334_016,
    "opt-125m": 125_239_296,
    "qwen3-0.6b": 596_049_920,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 4096,
}
UNICODE = "naïve\tcafé — 東京 👩‍🔬 \x00\r\n  <|eos|> end"


def read_yaml(name: str, **changes: Any) -> ModelConfig:
    """As Hydra does: the file merged onto the typed schema."""
    merged = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(FOLDER / f"{name}.yaml"), changes)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, ModelConfig)
    return config


def llama(**settings: Any) -> ModelConfig:
    return ModelConfig("small", architecture="llama", settings={**SMALL, **settings})


def saved(path: Path | str) -> ModelConfig:
    return ModelConfig("saved", source=ModelSource.pretrained, path=str(path), tokenizer=None)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a small model and its tokenizer."""
    load_model(llama(), "cpu", seed=0).save_pretrained(tmp_path / "model")
    load_tokenizer(llama()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_the_architecture_has_the_published_number_of_parameters(name: str) -> None:
    """Each YAML describes the model whose name it bears, to the last parameter, without using memory."""
    model = meta_model(read_yaml(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED_PARAMETERS[name]
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_model_file_is_complete(path: Path) -> None:
    """A model is called like its file, and is in bfloat16 from a billion parameters on, to fit one card."""
    config = read_yaml(path.stem, **({"path": "some/model"} if path.stem == "pretrained" else {}))
    assert config.name == path.stem
    if config.source == ModelSource.config:
        size = sum(parameter.numel() for parameter in meta_model(config).parameters())
        assert config.dtype == (Dtype.bfloat16 if size > 1e9 else Dtype.float32)
        assert len(load_tokenizer(config)) <= config.settings["vocab_size"]


def test_the_tiny_model_is_tiny() -> None:
    """The default model stays small enough for tests, yet is no toy: grouped queries and a vocabulary of its own."""
    model = meta_model(read_yaml("tiny"))
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_048_576
    assert model.config.num_key_value_heads < model.config.num_attention_heads


def test_pythia_rotates_a_quarter_of_each_head() -> None:
    """Settings below the top level, which no parameter count shows, reach the model."""
    rotary = load_model(read_yaml("pythia-410m", settings={"num_hidden_layers": 1}), "cpu", seed=0)
    assert rotary.gpt_neox.rotary_emb.inv_freq.numel() * 2 == 1024 // 16 // 4


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    """Same seed, same weights; another seed, others; the caller's random numbers go on as if nothing had happened."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (load_model(llama(), "cpu", seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize("attention", [Attention.sdpa, Attention.eager])
def test_a_model_comes_as_configured(attention: Attention) -> None:
    """Dtype and attention kernel are the configured ones, and dropout is off."""
    config = llama()
    config.dtype, config.attention = Dtype.bfloat16, attention
    model = load_model(config, "cpu", seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == attention.value
    assert not any(module.training for module in model.modules())


def test_a_saved_model_comes_back(checkpoint: Path) -> None:
    """A local folder gives the same weights, the same meta_model and its own tokenizer."""
    original, loaded = load_model(llama(), "cpu", seed=0), load_model(saved(checkpoint), "cpu", seed=5)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in original.state_dict().items())
    shapes = {name: parameter.shape for name, parameter in meta_model(saved(checkpoint)).named_parameters()}
    assert shapes == {name: parameter.shape for name, parameter in loaded.named_parameters()}
    assert load_tokenizer(saved(checkpoint)).get_vocab() == load_tokenizer(llama()).get_vocab()


def test_a_checkpoint_with_a_hole_is_refused(checkpoint: Path) -> None:
    """A missing weight is an error: transformers would draw it at random and go on."""
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"lacks 1 weights, the first being model\.norm\.weight"):
        load_model(saved(checkpoint), "cpu", seed=0)


def unknown_architecture(folder: Path) -> ModelConfig:
    return ModelConfig("bad", architecture="lama")


def flash_without_package(folder: Path) -> ModelConfig:
    return ModelConfig("bad", architecture="llama", settings=SMALL, attention=Attention.flash_attention_2)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (unknown_architecture, "did you mean 'llama'"),
        (lambda folder: llama(hiden_size=64), "no 'hiden_size' .*did you mean 'hidden_size'"),
        (lambda folder: llama(dtype="float16"), "no 'dtype'"),
        (lambda folder: llama(hidden_size="wide"), "expected int"),
        (lambda folder: llama(hidden_size=33), "not a multiple"),
        (lambda folder: llama(rope_parameters={"rope_thta": 1.0}), "did you mean 'rope_theta'"),
        (lambda folder: llama(rope_parameters={"rope_type": "spiral"}), "rope_type 'spiral' is unknown"),
        (lambda folder: llama(rope_parameters={"rope_type": "llama3", "factor": 8.0}), "Missing required keys"),
        (lambda folder: ModelConfig("bad", architecture="vit"), "Unrecognized configuration class"),
        (saved, "holds no config.json"),
        (lambda folder: saved(folder / "absent"), "does not exist"),
        (lambda folder: saved("./absent"), "does not exist"),
        (lambda folder: saved("no/such-model"), "hub id 'no/such-model' is not in the cache"),
        (lambda folder: ModelConfig("bad", source=ModelSource.pretrained), "set model.path"),
    ],
)
@pytest.mark.usefixtures("offline")
def test_what_is_no_model_is_said_in_one_line(config: Any, message: str, tmp_path: Path) -> None:
    """Each way to get a model wrong gives one line that names the model and the cause, before anything is built."""
    with pytest.raises(SourceError, match=message) as caught:
        meta_model(config(tmp_path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("model '")
    assert len(str(caught.value)) < 400


def test_a_kernel_that_is_not_installed_is_an_error() -> None:
    """A sweep learns before it starts that it lacks an attention kernel."""
    if torch.cuda.is_available():
        pytest.skip("the kernel may be here")
    with pytest.raises(SourceError, match=r"choose another model\.attention"):
        meta_model(flash_without_package(Path()))


def test_code_of_a_checkpoint_is_never_run(checkpoint: Path) -> None:
    """A checkpoint that brings its own code is refused, not run."""
    config = checkpoint / "config.json"
    text = config.read_text().replace(
        '"model_type": "llama"', '"model_type": "x", "auto_map": {"AutoConfig": "evil.X"}'
    )
    config.write_text(text)
    (checkpoint / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(SourceError, match="never run here"):
        load_model(saved(checkpoint), "cpu", seed=0)


def test_the_builtin_tokenizer_keeps_all_text() -> None:
    """Any text comes back to the character, and the special tokens have the ids that the documentation gives."""
    tokenizer = load_tokenizer(llama())
    assert (len(tokenizer), tokenizer.name_or_path) == (VOCABULARY_SIZE, BUILTIN)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    ids = tokenizer.encode(UNICODE, add_special_tokens=False, split_special_tokens=True)
    assert tokenizer.decode(ids) == UNICODE
    assert tokenizer.eos_token_id not in ids
    assert max(ids) < VOCABULARY_SIZE


def test_building_the_tokenizer_is_reproducible() -> None:
    """The same texts give the same tokenizer, in this process and in one with other hash seeds and threads."""
    texts = [Path(__file__).read_text(encoding="utf-8"), UNICODE * 50]
    first = build_tokenizer(texts).to_str()
    assert build_tokenizer(texts).to_str() == first
    script = (
        "import sys; from bench.workload.models import build_tokenizer; from tests.test_models import UNICODE, Path\n"
        f"texts = [Path({__file__!r}).read_text(encoding='utf-8'), UNICODE * 50]\n"
        "sys.stdout.buffer.write(build_tokenizer(texts).to_str().encode())"
    )
    environment = {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=FOLDER.parent.parent, env=environment
    )
    assert other.stdout.decode() == first


def test_the_committed_tokenizer_was_built_by_this_code() -> None:
    """The file in assets has the shape that build_tokenizer gives: same pipeline, same first 259 entries."""
    committed = load_tokenizer(llama()).backend_tokenizer
    fresh = build_tokenizer(["some text"])
    assert TOKENIZER_FILE.stat().st_size < 300_000
    assert [committed.id_to_token(index) for index in range(259)] == [fresh.id_to_token(index) for index in range(259)]
    assert str(committed.decoder) == str(fresh.decoder)
    assert str(committed.pre_tokenizer) == str(fresh.pre_tokenizer)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("tokenizer", ["./absent", "no/such-tokenizer"])
def test_a_tokenizer_that_cannot_be_had_is_said_in_one_line(tokenizer: str) -> None:
    """As for models."""
    with pytest.raises(SourceError, match=r"does not exist|not in the cache") as caught:
        load_tokenizer(ModelConfig("small", architecture="llama", settings=SMALL, tokenizer=tokenizer))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    """Ids past the embedding would crash a GPU in the middle of a sweep."""
    with pytest.raises(SourceError, match="has 4096 tokens and the model has room for 100"):
        load_tokenizer(llama(vocab_size=100))


def test_the_schema_costs_no_torch() -> None:
    """The parent process can compose and check configurations without importing torch."""
    script = "import sys, bench.config.sources; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=FOLDER.parent.parent)


def test_what_counts_as_a_local_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on disk, or looks like a path, is local; anything else is a hub id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    assert all(is_local(path) for path in ("gpt2", "./x", "../x", "/x", "~/x"))
    assert not any(is_local(path) for path in ("opt", "facebook/opt-125m"))
