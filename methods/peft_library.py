"""Hugging Face peft as a library: imported when needed, and its errors turned into one kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from methods.errors import MethodError, Unsupported

COMPILERS = ("CC", "CXX")
"""Variables that peft sets to build kernels for BOFT. If that fails they stay set, and the next program that compiles
C++ uses a compiler for C."""


def library() -> Any:
    """The package, which takes seconds to import.

    Raises:
        Unsupported: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise Unsupported(f"Hugging Face peft can't be imported: {error}") from error
    return peft


@contextmanager
def refusals(kind: str) -> Iterator[None]:
    """Turns whatever peft raises about a configuration or a model into the reason why the type ``kind`` can't run.

    The environment's compilers are restored.

    Raises:
        Unsupported: with the type and the message of peft's error.
    """
    before = {name: os.environ.get(name) for name in COMPILERS}
    try:
        yield
    except (MethodError, OSError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # peft raises exceptions of every kind, and has none of its own
        reason = " ".join(str(error).split()) or "no reason given"
        raise Unsupported(f"peft refuses {kind}: {type(error).__name__}: {reason[:300]}") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
