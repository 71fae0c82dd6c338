"""What a checkpoint file holds, and whether it is what a model has places for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from methods.errors import MethodError

FORMAT = "peft-verdict/1"


def expect(shipped: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], method: str) -> None:
    """Refuses tensors that are not exactly those of ``shapes``.

    Raises:
        MethodError: naming what is missing, surplus or of another shape.
    """
    if missing := sorted(set(shapes) - set(shipped)):
        raise MethodError(f"the {method} checkpoint lacks {_few(missing)}")
    if surplus := sorted(set(shipped) - set(shapes)):
        raise MethodError(f"the {method} checkpoint holds {_few(surplus)}, which the model has no place for")
    for name, shape in shapes.items():
        if tuple(shipped[name].shape) != shape:
            got = tuple(shipped[name].shape)
            raise MethodError(f"{name} of the {method} checkpoint has shape {got}, the model needs {shape}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@dataclass(frozen=True)
class Checkpoint:
    """A file written by `methods.base.Attached.save`."""

    method: str
    settings: dict[str, object]
    base: dict[str, object]
    """`methods.base.base_of` the model that it was made on."""
    tensors: dict[str, Tensor]


def read_checkpoint(path: Path) -> Checkpoint:
    """What a file holds.

    Raises:
        MethodError: the file is absent, torn or not ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, has only keys()
    except (OSError, SafetensorError) as error:
        raise MethodError(f"{path} can't be read as a checkpoint: {error}") from error
    if metadata.get("format") != FORMAT:
        raise MethodError(f"{path} is no {FORMAT} checkpoint (format: {metadata.get('format')})")
    try:
        settings, base = json.loads(metadata["settings"]), json.loads(metadata["base"])
        return Checkpoint(metadata["method"], dict(settings), dict(base), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise MethodError(f"{path} is no {FORMAT} checkpoint: its metadata are broken ({error})") from error
