"""Base models and tokenizers, from a :class:`~bench.config.sources.ModelConfig`.

Every configuration that is not a model ends in a :class:`SourceError` of one line, because the harness checks all cells
of a sweep before the first one starts and prints what it found.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME, logging

from bench.config.sources import BUILTIN, ModelConfig, ModelSource, SourceError, is_local, local_folder
from bench.workload.hub import one_line

TOKENIZER_FILE = Path(__file__).parent / "assets" / "tokenizer.json"
VOCABULARY_SIZE = 4096
PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
"""Special tokens, with the ids 0, 1 and 2 in this order (1 and 2 are also what Llama's defaults say)."""


def load_model(config: ModelConfig, device: torch.device | str, seed: int) -> PreTrainedModel:
    """Build or load the model on the device, in the configured dtype and in eval mode.

    Random weights depend on the seed and on the kind of device, since each draws its own numbers; the caller's random
    state stays as it was.

    Raises:
        SourceError: there is no such model, or it needs what this machine lacks.
    """
    device = torch.device(device)
    generators = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with _one_line_errors(config, config.path), torch.random.fork_rng(devices=generators):
        torch.manual_seed(seed)
        model = _random(config, device) if config.source == ModelSource.config else _pretrained(config, device)
    model.train(False)
    return model


def meta_model(config: ModelConfig, device: torch.device | str = "meta") -> PreTrainedModel:
    """The same model on the meta device: every name, shape and dtype, no memory. Reads at most a ``config.json``.

    Under torch's ``FakeTensorMode`` the device may be another one.

    Raises:
        SourceError: as :func:`load_model`, as far as it can be told without the weights.
    """
    with _one_line_errors(config, config.path):
        model = _random(config, torch.device(device))
    model.train(False)
    return model


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerFast:
    """The model's tokenizer.

    Raises:
        SourceError: there is none, or it has more tokens than a model that it was not made for can embed.
    """
    source = config.tokenizer if config.tokenizer is not None else config.path
    with _one_line_errors(config, source):
        if source is None:
            raise SourceError("there is no path to take a tokenizer from: set model.tokenizer=builtin")
        tokenizer = _builtin_tokenizer() if source == BUILTIN else _saved_tokenizer(source, config)
        if config.tokenizer is not None and len(tokenizer) > (room := _architecture(config).vocab_size):
            raise SourceError(
                f"tokenizer '{source}' has {len(tokenizer)} tokens and the model has room for {room}: "
                "raise vocab_size or choose another tokenizer"
            )
    return tokenizer


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train the builtin tokenizer: byte-level BPE, so that any text can be encoded and each token has a byte length.

    The file in ``assets`` was made, once, on CPython 3.11.7, and has been the same for everybody since:
    ``build_tokenizer(bench.workload.documents.stdlib_documents().values()).save(str(TOKENIZER_FILE))``.

    Returns:
        a tokenizer of at most 4096 entries; the same texts give the same one.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS],
        # all 256 bytes, whether the texts use them or not
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _builtin_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER_FILE), pad_token=PAD, bos_token=BOS, eos_token=EOS, name_or_path=BUILTIN
    )


def _saved_tokenizer(source: str, config: ModelConfig) -> PreTrainedTokenizerFast:
    # a revision names a state of the model's own repository, not of another one's
    revision = config.revision if source == config.path else None
    folder = _locate(source, ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SourceError(f"tokenizer '{source}' is not a fast one (no tokenizer.json): convert it, or choose another")
    return tokenizer


def _random(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """The architecture with new weights, drawn on the device itself: an 8B model takes minutes on a CPU."""
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(_architecture(config), **_build_options(config))
    return model


def _pretrained(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """The checkpoint's weights, all of them."""
    logging.disable_progress_bar()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        _model_path(config), revision=config.revision, output_loading_info=True, **_build_options(config)
    )
    model: PreTrainedModel
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        # transformers only logs this, and draws the missing weights at random
        raise SourceError(
            f"the checkpoint at '{config.path}' lacks {len(missing)} weights, the first being {missing[0]}: "
            "it is not a whole causal language model, choose another"
        )
    nn.Module.to(model, device)  # in place; transformers' own has no types
    return model


def _build_options(config: ModelConfig) -> dict[str, Any]:
    dtype = getattr(torch, config.dtype.value)
    return {"dtype": dtype, "attn_implementation": config.attention.value, "trust_remote_code": False}


def _architecture(config: ModelConfig) -> PreTrainedConfig:
    """The transformers configuration, a new one each time, because building a model writes into it."""
    if config.source == ModelSource.pretrained:
        saved = AutoConfig.from_pretrained(_model_path(config), revision=config.revision, trust_remote_code=False)
        assert isinstance(saved, PreTrainedConfig)
        return saved
    if config.architecture is None or config.architecture not in CONFIG_MAPPING:
        hint = _hint(str(config.architecture), list(CONFIG_MAPPING))
        raise SourceError(f"architecture '{config.architecture}' is not a transformers model_type{hint}: correct it")
    config_class = CONFIG_MAPPING[config.architecture]
    _check_settings(config.settings, config_class)
    architecture: PreTrainedConfig = config_class(**config.settings)
    return architecture


def _check_settings(settings: dict[str, Any], config_class: type[PreTrainedConfig]) -> None:
    """Refuse a misspelled setting: transformers keeps unknown arguments as attributes and goes on with the default."""
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    known -= {"dtype"}  # has a place of its own, model.dtype
    _check_keys("settings", settings, known)
    rope = settings.get("rope_parameters") or {}
    # some architectures give each kind of layer its own set
    for parameters in [value for value in rope.values() if isinstance(value, dict)] or [rope]:
        _check_keys("settings.rope_parameters", parameters, RopeParameters.__annotations__)
        kind = parameters.get("rope_type", "default")
        if kind not in (kinds := {"default", *ROPE_INIT_FUNCTIONS}):
            raise SourceError(f"rope_type '{kind}' is unknown: choose one of {', '.join(sorted(kinds))}")


def _check_keys(where: str, given: Iterable[str], known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            raise SourceError(f"{where} has no '{key}' in this architecture{_hint(key, known)}: correct or remove it")


def _hint(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _model_path(config: ModelConfig) -> str:
    if config.path is None:
        raise SourceError("a pretrained model needs a hub id or a local folder: set model.path")
    path = _locate(config.path, ("config.json",))
    if is_local(config.path):
        _check_weights(Path(path))
    return path


def _check_weights(folder: Path) -> None:
    """Refuses a local checkpoint without weights, or with a torn file, before anything is loaded."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {SAFE_WEIGHTS_NAME}
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing and any((folder / name).is_file() for name in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)):
        return  # torch's own format, which only loading can check
    if missing:
        raise SourceError(f"the local folder '{folder}' has no {missing[0]}: give one written by save_pretrained")
    for name in names:
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except SafetensorError as error:
            raise SourceError(f"{folder / name} is torn: {error}: copy it again") from error


def _locate(path: str, files: Collection[str]) -> str:
    """A hub id as it is, or the path of a local folder that holds one of ``files``."""
    return str(local_folder(path, files)) if is_local(path) else path


@contextmanager
def _one_line_errors(config: ModelConfig, source: str | None) -> Iterator[None]:
    """Turn whatever transformers and the hub raise about this model into one line that begins with its name."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"model '{config.name}': {error}") from error.__cause__
    except ImportError as error:
        what = one_line(error, source).rstrip(".")
        raise SourceError(f"model '{config.name}': {what}: install it, or choose another model.attention") from error
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise SourceError(f"model '{config.name}': {one_line(error, source)}") from error
