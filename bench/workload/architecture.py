"""The transformers configuration of a base model: written down in full, or read from its checkpoint."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from bench.config.sources import GGUF, ModelConfig, ModelSource, SourceError, is_local, local_checkpoint


def read_architecture(config: ModelConfig) -> PreTrainedConfig:
    """The transformers configuration, a new one each time, because building a model writes into it.

    Raises:
        SourceError: there is none, a setting is unknown, or it describes an encoder.
    """
    saved = config.source == ModelSource.pretrained
    architecture = _saved(config) if saved else _written(config)
    _refuse_encoder(architecture)
    return architecture


def locate(config: ModelConfig) -> tuple[str, dict[str, str]]:
    """Where transformers finds a pretrained model: a hub id or folder, and the argument that names a gguf file in it.

    Raises:
        SourceError: there is no whole model at a local path, or its distribution is not installed.
    """
    place = config.place()
    if place is None:
        raise SourceError("a pretrained model needs a hub id, a local folder or a gguf file: set model.path")
    if not is_local(place):
        return place, {}
    return split_gguf(local_checkpoint(place))


def split_gguf(place: Path) -> tuple[str, dict[str, str]]:
    """A folder as it is; a gguf file as its folder and the argument that names it.

    Raises:
        SourceError: the package that reads such files is not installed.
    """
    if place.suffix != GGUF:
        return str(place), {}
    if importlib.util.find_spec("gguf") is None:  # transformers would say so in several lines
        raise SourceError(f"'{place}' needs the package gguf, which is not here: pip install gguf")
    return str(place.parent), {"gguf_file": place.name}


def _saved(config: ModelConfig) -> PreTrainedConfig:
    source, gguf = locate(config)
    saved = AutoConfig.from_pretrained(source, revision=config.revision, trust_remote_code=False, **gguf)
    assert isinstance(saved, PreTrainedConfig)
    return saved


def _written(config: ModelConfig) -> PreTrainedConfig:
    if config.architecture is None or config.architecture not in CONFIG_MAPPING:
        hint = _hint(str(config.architecture), list(CONFIG_MAPPING))
        raise SourceError(f"architecture '{config.architecture}' is not a transformers model_type{hint}: correct it")
    config_class = CONFIG_MAPPING[config.architecture]
    _check_settings(config.settings, config_class)
    architecture: PreTrainedConfig = config_class(**config.settings)
    return architecture


_BOTH_WAYS: dict[str, str | None] = {
    **dict.fromkeys(
        (
            *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
            *("megatron-bert", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer"),
            *("xlm-roberta", "xlm-roberta-xl", "xmod"),
        ),
        "is_decoder",
    ),
    "xlm": "causal",
    **dict.fromkeys(("cpmant", "xlnet")),
}
"""Types whose tokens see those after them, unless a setting is true. transformers gives each a causal head."""


def _refuse_encoder(architecture: PreTrainedConfig) -> None:
    text = architecture.get_text_config()
    setting = _BOTH_WAYS.get(text.model_type)
    if text.model_type in _BOTH_WAYS:
        causal = setting is not None and getattr(text, setting)
    else:
        causal = getattr(text, "use_bidirectional_attention", None) is not True
    if not causal:
        advice = "choose a causal model" + (f", or one with {setting}=true" if setting is not None else "")
        raise SourceError(f"the tokens of a {text.model_type} model like this see those after them: {advice}")


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
