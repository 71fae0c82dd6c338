"""Parameter-efficient fine-tuning methods in plain torch, on transformers models.

    from methods.lora import Lora

    attached = Lora(rank=8).attach(model)
    optimizer = torch.optim.AdamW(attached.trained().values())
    ...
    attached.save(Path("adapted"))

The folder is loaded with ``methods.load(model, Path("adapted"))``. If Hugging Face peft has the method, so does
``PeftModel.from_pretrained(model, "adapted")``, and what peft saved loads here too. See README.md in this folder.
Nothing here depends on the harness.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import TYPE_CHECKING

from methods.errors import MethodError, Unsupported

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from methods.base import Attached, Count, Method
    from methods.checkpoint import Checkpoint
else:

    def __getattr__(name):
        """Loads the classes of `methods.base` on first use, because torch takes seconds to import."""
        if name in ("Attached", "Count", "Method"):
            return getattr(importlib.import_module("methods.base"), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = ["Attached", "Count", "Method", "MethodError", "Unsupported", "available", "load"]


def available() -> dict[str, type[Method]]:
    """Every method of this package by name. A file that defines a `Method` is registered by its presence."""
    from methods.base import Method

    found: dict[str, type[Method]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            local = inspect.isclass(value) and value.__module__ == module.__name__
            if local and issubclass(value, Method) and not inspect.isabstract(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def load(model: PreTrainedModel, path: Path) -> Attached:
    """Attaches the method that a folder holds, in its form for inference, whether saved here or by Hugging Face peft.

    Raises:
        MethodError: the folder holds no checkpoint, one that is not supported here, or one that does not fit the model.
    """
    from methods.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path)
    method, shipped = _class_of(checkpoint, path).read(model, checkpoint)
    return method.restore(model, shipped)


def _class_of(checkpoint: Checkpoint, path: Path) -> type[Method]:
    from methods.peft_format.config import USE_PEFT

    classes, name = available(), checkpoint.made_by
    if checkpoint.origin is None:
        formats = {kind: kind.peft_format() for kind in classes.values()}
        classes = {peft.PEFT_TYPE: kind for kind, peft in formats.items() if peft is not None and peft.PEFT_TYPE}
    if name in classes:
        return classes[name]
    advice = "" if checkpoint.origin is not None else f"; {USE_PEFT}"
    raise MethodError(f"{path} holds the method '{name}', which is not one of {', '.join(classes)}{advice}")
