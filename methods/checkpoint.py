"""The files of a checkpoint, written and read.

A method that Hugging Face peft has is saved in peft's format: ``adapter_config.json``, and ``adapter_model.safetensors``
with peft's names and shapes. The header of the second file also says which method made it, with which settings and on
which base. peft ignores that header. Here it is read first, and gives exactly the method that was saved; peft's
configuration alone would give a method with equal outputs.

A method that peft lacks is saved in one file, ``method.safetensors``, with the same header and these tensors (L layers,
hidden size d, bottleneck b, k virtual tokens):

| method | tensors |
|---|---|
| full | every parameter, under the name that it has in the model |
| adapter | ``<layer>.<sublayer>.down.weight`` [b, d], ``.down.bias`` [b], ``.up.weight`` [d, b], ``.up.bias`` [d]; the sublayer is ``attention`` or ``feed_forward`` |
| p_tuning_v2 | ``prompts`` [L, k, d] |

The header has the entries ``format`` "pt", ``layout`` (`LAYOUT`), ``method``, and as JSON ``settings``, ``base``
(`methods.attached.base_of`) and ``ranks`` (of each projection by label, for low-rank methods).
"""  # noqa: E501  # a table's row is one line

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from methods.errors import MethodError

LAYOUT = "peft-verdict/2"
OWN_FILE = "method.safetensors"
CONFIG_FILE = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of dtypes in a safetensors file (https://github.com/huggingface/safetensors#format)."""
LENGTH_BYTES = ALIGNMENT = 8
"""Such a file begins with the length of its header in 8 bytes. The header is padded to a multiple of 8 bytes."""
RENAMED_SETTINGS = {
    "prefix_tuning": {"reparametrise": "reparametrize"},
    "qlora": {"double_quantisation": "double_quantization"},
}
"""Of each method, the settings that have another name in checkpoints from before they were renamed."""


def expect(shipped: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], method: str) -> None:
    """Refuses tensors that are not exactly those of ``shapes``.

    Raises:
        MethodError: the message names the tensor that is missing, surplus or of another shape.
    """
    if missing := sorted(set(shapes) - set(shipped)):
        raise MethodError(f"the {method} checkpoint lacks {_few(missing)}")
    if surplus := sorted(set(shipped) - set(shapes)):
        raise MethodError(f"the {method} checkpoint holds {_few(surplus)}, for which the model has no place")
    for name, shape in shapes.items():
        if tuple(shipped[name].shape) != shape:
            got = tuple(shipped[name].shape)
            raise MethodError(f"{name} of the {method} checkpoint has shape {got}, but the model needs {shape}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Origin:
    """What the header of a checkpoint says: which method made it, with which settings and on which base."""

    method: str
    settings: dict[str, object]
    base: dict[str, object]
    """`methods.attached.base_of` the model that it was made on."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank of each projection by label. peft has one rank per module, and some modules hold several projections."""


@dataclass(frozen=True)
class PeftCheckpoint:
    """A method in peft's format."""

    config: dict[str, object]
    """``adapter_config.json``."""
    tensors: dict[str, Tensor]
    """``adapter_model.safetensors``."""
    ranks: dict[str, int] = field(default_factory=dict)
    """See `Origin.ranks`."""


class PeftFormat(Protocol):
    """A module of `methods.peft_format` that has the name of a method, and translates that method."""

    PEFT_TYPE: str | None
    """The ``peft_type`` of those checkpoints of peft's own that become this method; None where none do."""

    def to_peft(self, attached: Any) -> PeftCheckpoint:
        """What is shipped, in peft's format."""

    def from_peft(
        self, model: PreTrainedModel, checkpoint: PeftCheckpoint, method: Any
    ) -> tuple[Any, Mapping[str, Tensor]]:
        """The inverse of `to_peft`: a method and its tensors. A ``method`` of None is read from the configuration.

        Raises:
            MethodError: tensors are missing, surplus or of another shape, or the configuration asks for what is not
                supported here.
        """


@dataclass(frozen=True)
class Checkpoint:
    """A folder written by `methods.attached.Attached.save`, or by peft."""

    tensors: dict[str, Tensor]
    origin: Origin | None
    """None in a folder that peft wrote."""
    config: dict[str, object] | None
    """``adapter_config.json``, None where the tensors are not in peft's format."""

    @property
    def made_by(self) -> str:
        """The name of the method, or peft's type in a folder that peft wrote."""
        return self.origin.method if self.origin is not None else str((self.config or {}).get("peft_type"))


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Tensor], origin: Origin, config: dict[str, object] | None
) -> None:
    """Makes the folder and writes its file, or its two files where a ``config`` is given (the format of peft).

    Raises:
        MethodError: the folder can't be made or written, or it holds a method in the other format.
    """
    name, other = (OWN_FILE, PEFT_FILE) if config is None else (PEFT_FILE, OWN_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MethodError(f"{folder} can't be made a folder: {error}; save into another one") from error
    if (folder / other).exists():
        raise MethodError(f"{folder} holds {other}, which is another method's; save into another folder")
    held = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    try:
        save_file(held, folder / name, metadata=_header(origin))
        if config is not None:
            (folder / CONFIG_FILE).write_text(_config_text(config))
    except (OSError, SafetensorError) as error:
        raise MethodError(f"{folder} can't be written to: {error}") from error


def checkpoint_bytes(tensors: Mapping[str, Tensor], origin: Origin, config: dict[str, object] | None) -> int:
    """How many bytes `write_checkpoint` would write, from names, shapes and dtypes alone."""
    header: dict[str, object] = {"__metadata__": _header(origin)}
    end = 0
    # a file holds the tensors of the widest dtype first, and then goes by name
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        start, end = end, end + tensor.nbytes
        kind = DTYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    padded = -(-len(text) // ALIGNMENT) * ALIGNMENT
    beside = 0 if config is None else len(_config_text(config).encode())
    return LENGTH_BYTES + padded + end + beside


def _header(origin: Origin) -> dict[str, str]:
    return {
        "format": "pt",  # transformers looks for this entry
        "layout": LAYOUT,
        "method": origin.method,
        **{key: json.dumps(getattr(origin, key), sort_keys=True) for key in ("settings", "base", "ranks")},
    }


def _config_text(config: dict[str, object]) -> str:
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a folder that `write_checkpoint` or peft wrote.

    Raises:
        MethodError: the folder or a file is missing, damaged or in a format that is not known here.
    """
    if not folder.is_dir():
        raise MethodError(f"there is no folder {folder}; give one into which a method was saved")
    shared = (folder / CONFIG_FILE).exists() or (folder / PEFT_FILE).exists()
    if shared and (folder / OWN_FILE).exists():
        raise MethodError(f"{folder} holds two checkpoints, {OWN_FILE} and one in peft's format; keep one")
    header, tensors = _read_tensors(folder / (PEFT_FILE if shared else OWN_FILE))
    origin = _read_origin(folder, header) if "layout" in header or not shared else None
    return Checkpoint(tensors, origin, _read_config(folder / CONFIG_FILE) if shared else None)


def _read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise MethodError(f"{path} can't be read as a checkpoint: {error}") from error


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MethodError(f"{path} can't be read as a configuration of peft: {error}") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise MethodError(f"{path} is not a configuration of peft: it has no peft_type")
    return config


def _read_origin(folder: Path, header: Mapping[str, str]) -> Origin:
    if header.get("layout") != LAYOUT:
        raise MethodError(f"{folder} is not a {LAYOUT} checkpoint: its layout is {header.get('layout')}")
    try:
        method = header["method"]
        settings, base, ranks = (dict(json.loads(header[key])) for key in ("settings", "base", "ranks"))
    except (KeyError, TypeError, ValueError) as error:
        raise MethodError(f"{folder} is not a {LAYOUT} checkpoint: its header is damaged ({error})") from error
    renamed: Mapping[str, str] = RENAMED_SETTINGS.get(method, {})
    return Origin(method, {renamed.get(key, key): value for key, value in settings.items()}, base, ranks)
