"""Base models and tokenizers, from a :class:`~bench.config.sources.ModelConfig`.

Every configuration that is not a model ends in a :class:`SourceError` of one line, because the harness checks all cells
of a sweep before the first one starts and prints what it found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from bench.config.sources import (
    ADAPTER_CONFIG,
    BUILTIN,
    GGUF,
    ModelConfig,
    ModelSource,
    SourceError,
    is_local,
    local_checkpoint,
    local_folder,
)
from bench.workload.architecture import locate, read_architecture, split_gguf
from bench.workload.hub import one_line
from bench.workload.quantized import (
    FOUR_BITS,
    dequantized,
    logical_shapes,
    make_portable,
    mark_quantized,
    method_of,
    pack,
    quantization,
    stored_types,
    transposed,
)
from bench.workload.weights import check_weights, fill, read_weights, refuse_misfit, weight_files
from methods import Unsupported

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
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
    """The same model on the meta device: every name, shape and dtype, no memory.

    Of a checkpoint it reads the configuration and, where the weights are here, the headers of their files. Under
    torch's ``FakeTensorMode`` the device may be another one: then it is laid out as in memory, and no header is read.

    Raises:
        SourceError: as :func:`load_model`, as far as it can be told without the weights.
        Unsupported: under ``FakeTensorMode``, the weights are quantized in a way that only they tell.
    """
    with _one_line_errors(config, config.path):
        model = _random(config, torch.device(device))
        if config.source == ModelSource.pretrained:
            _lay_out(config, model)
    model.train(False)
    return model


def source_warnings(config: ModelConfig) -> list[str]:
    """What a record should say of where its base comes from."""
    if config.source == ModelSource.config:
        return []
    source, gguf = locate(config)
    found = []
    if gguf:
        stored = stored_types(Path(source) / gguf["gguf_file"])
        found.append(f"the weights of {config.label} were dequantized: its file stores {stored}")
    if is_local(source) and (Path(source) / ADAPTER_CONFIG).is_file():
        found.append(f"the adapter beside the weights in '{config.label}' was left out")
    return found


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerFast:
    """The model's tokenizer.

    Raises:
        SourceError: there is none, or it has more tokens than the model can embed.
    """
    with _one_line_errors(config, config.tokenizer or config.path):
        source = config.tokenizer if config.tokenizer is not None else config.place()
        if source is None:
            raise SourceError("there is no path to take a tokenizer from: set model.tokenizer=builtin")
        tokenizer = _builtin_tokenizer() if source == BUILTIN else _saved_tokenizer(source, config)
        if len(tokenizer) > (room := read_architecture(config).get_text_config().vocab_size):
            raise SourceError(
                f"tokenizer '{source}' has {len(tokenizer)} tokens and the model has room for {room}: "
                "raise vocab_size or choose another with model.tokenizer"
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
    folder, gguf = _locate_tokenizer(source)
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, trust_remote_code=False, **gguf)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise SourceError(f"tokenizer '{source}' is not a fast one (no tokenizer.json): convert it, or choose another")
    return tokenizer


def _random(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """The architecture with new weights, drawn on the device itself: an 8B model takes minutes on a CPU."""
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(read_architecture(config), **_build_options(config))
    return model


def _pretrained(config: ModelConfig, device: torch.device) -> PreTrainedModel:
    """The checkpoint's weights, all of them, and nothing else."""
    like = _random(config, torch.device("meta"))
    model, report = _filled(config, like)
    refuse_misfit(report, config.label, _is_part(config, like))
    model.name_or_path = model.config.name_or_path = config.label
    make_portable(model)
    nn.Module.to(model, device)  # in place; transformers' own has no types
    return model


def _filled(config: ModelConfig, like: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model like ``like`` with the checkpoint's weights, and transformers' report."""
    source, gguf = locate(config)
    options = _build_options(config)
    if not gguf:
        weights = read_weights(weight_files(source, config.revision, download=True))
        return fill(type(like), like.config, state_dict=weights, **options)
    with TemporaryDirectory() as alone:  # of such a file transformers must be told the folder
        (Path(alone) / gguf["gguf_file"]).symlink_to((Path(source) / gguf["gguf_file"]).resolve())
        return fill(type(like), like.config, alone, **gguf, **dequantized(), **options)


def _lay_out(config: ModelConfig, model: PreTrainedModel) -> None:
    """Gives a model without data the layout of its checkpoint, and refuses one that the checkpoint does not fit.

    Only a model that is to be run may be quantized in a way that weights alone tell: its names and shapes are known.
    """
    quantizer = quantization(model.config)
    method = None if quantizer is None else method_of(quantizer)
    estimated = model.device.type != "meta"
    source, gguf = locate(config)
    files = [] if gguf or estimated else weight_files(source, config.revision, download=False)
    shapes = logical_shapes(read_weights(files), method) if files else None
    if shapes is not None:
        turned = transposed(model) if method in FOUR_BITS else ()
        check_weights(model, shapes, source, turned, _is_part(config, model))
    if method in FOUR_BITS:
        stored = read_architecture(config).dtype
        pack(model, quantizer, stored if isinstance(stored, torch.dtype) else model.dtype)
    elif quantizer is not None and estimated:
        raise Unsupported(f"'{config.label}' is quantized by {method}, whose layout only its weights tell: measure it")
    elif quantizer is not None:
        mark_quantized(model)


def _is_part(config: ModelConfig, model: PreTrainedModel) -> bool:
    """Whether transformers made the text model alone of a checkpoint that also sees or hears."""
    return type(model.config) is not type(read_architecture(config))


def _build_options(config: ModelConfig) -> dict[str, Any]:
    dtype = getattr(torch, config.dtype.value)
    return {"dtype": dtype, "attn_implementation": config.attention.value, "trust_remote_code": False}


def _locate_tokenizer(source: str) -> tuple[str, dict[str, str]]:
    """A hub id as it is, or the local folder or gguf file that holds a tokenizer."""
    if not is_local(source):
        return source, {}
    place = Path(source).expanduser()
    if any((place / name).is_file() for name in TOKENIZER_FILES):
        return str(place), {}
    found = local_checkpoint(source)
    return split_gguf(found if found.suffix == GGUF else local_folder(source, TOKENIZER_FILES))


@contextmanager
def _one_line_errors(config: ModelConfig, source: str | None) -> Iterator[None]:
    """Turn whatever transformers and the hub raise about this model into one line that begins with its name."""
    try:
        yield
    except Unsupported:  # skips this cell alone
        raise
    except SourceError as error:
        raise SourceError(f"model '{config.name}': {error}") from error.__cause__
    except ImportError as error:
        what = one_line(error, source).rstrip(".")
        raise SourceError(f"model '{config.name}': {what}: install it, or choose another model.attention") from error
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        raise SourceError(f"model '{config.name}': {one_line(error, source)}") from error
