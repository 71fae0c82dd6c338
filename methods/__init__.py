"""Parameter-efficient fine-tuning methods in plain torch, on transformers models.

    from methods.lora import Lora

    attached = Lora(rank=8).attach(model)
    optimizer = torch.optim.AdamW(attached.trained().values())
    ...
    attached.save(Path("lora.safetensors"))

and elsewhere ``methods.load(model, Path("lora.safetensors"))``. Nothing here knows of the harness.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from transformers import PreTrainedModel

from methods.base import Attached, Count, Method, base_of
from methods.checkpoint import read_checkpoint
from methods.errors import MethodError, Unsupported

__all__ = ["Attached", "Count", "Method", "MethodError", "Unsupported", "available", "load"]


def available() -> dict[str, type[Method]]:
    """Every method of this package by name: a file that defines a `Method` is registered by being there."""
    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            local = inspect.isclass(value) and value.__module__ == module.__name__
            if local and issubclass(value, Method) and not inspect.isabstract(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def load(model: PreTrainedModel, path: Path) -> Attached:
    """Attaches a saved method, in its serving form.

    Raises:
        MethodError: the file is not a checkpoint of ours, or does not fit the model.
    """
    found = read_checkpoint(path)
    classes = available()
    if found.method not in classes:
        raise MethodError(f"{path} holds the method '{found.method}', which is not one of {', '.join(classes)}")
    if (base := base_of(model)) != found.base:
        raise MethodError(f"{path} was made on another base: {found.base}, and this one is {base}")
    return classes[found.method].from_settings(found.settings).restore(model, found.tensors)
