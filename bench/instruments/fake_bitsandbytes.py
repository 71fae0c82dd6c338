"""bitsandbytes on tensors without data: what the library can't do with them is done here in its place.

Its class of 4-bit parameters can't hold a fake tensor, and it keeps code tables for the life of the process, which
must neither be made of fake tensors nor be mixed with them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

LIBRARY = "bitsandbytes"
TABLE_CODES = 256
"""Entries of the library's code table of 8-bit numbers."""


@contextmanager
def fake_bitsandbytes() -> Iterator[None]:
    """Patches the library while fake tensors are on: now if it is loaded, otherwise when it is.

    It is not loaded for this, because it asks the driver about the card, which an estimate need not do.
    """
    with ExitStack() as patches:

        def patch(library: ModuleType) -> None:
            patches.enter_context(_patched(library))

        if LIBRARY in sys.modules:
            patch(sys.modules[LIBRARY])
        else:
            finder = _OnImport(patch)
            sys.meta_path.insert(0, finder)
            patches.callback(finder.remove)
        yield


class _OnImport(MetaPathFinder):
    """Finds the library as all other finders do, and calls ``then`` once it is imported."""

    def __init__(self, then: Callable[[ModuleType], None]) -> None:
        self.then = then

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != LIBRARY:
            return None
        self.remove()  # the others are asked next
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with unset_fake_temporarily():  # tensors that it makes now outlive the estimate
                    execute(module)
                self.then(module)

            loader.exec_module = exec_module
        return spec


@contextmanager
def _patched(library: Any) -> Iterator[None]:
    parameters, tables = library.nn.Params4bit, library.functional.name2qmap
    kept = dict(tables)
    library.nn.Params4bit = library.nn.modules.Params4bit = _fake_parameters(parameters)
    tables.clear()
    tables["dynamic"] = torch.empty(TABLE_CODES)
    try:
        yield
    finally:
        library.nn.Params4bit = library.nn.modules.Params4bit = parameters
        tables.clear()
        tables.update(kept)


def _fake_parameters(real: Any) -> Any:
    """A class in the place of ``real`` that gives a plain parameter where the data are fake."""

    def new(cls: Any, data: Any = None, *args: Any, quant_state: Any = None, **settings: Any) -> nn.Parameter:
        if not isinstance(data, FakeTensor):
            made: nn.Parameter = real(data, *args, quant_state=quant_state, **settings)
            return made
        parameter = nn.Parameter(data, requires_grad=False)
        # peft reads them to make a layer like this one
        vars(parameter).update(settings, quant_state=quant_state)
        return parameter

    return type(real.__name__, (real,), {"__new__": new})
