"""What differs between releases of transformers (the oldest supported is 5.17), and between kinds of tensors."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

OLD_CACHE_NAME = "past_key_values"
"""The key/value cache before 5.24, as an argument and in what a forward pass returns. Now its name is ``cache``."""


def cache_argument(model: PreTrainedModel) -> str:
    """The argument of ``model.forward`` that takes a cache. For a wrapper of peft it is that of the model inside."""
    inside: Any = model
    inside = inside.get_base_model() if hasattr(inside, "get_base_model") else inside
    return "cache" if "cache" in inspect.signature(inside.forward).parameters else OLD_CACHE_NAME


def cache_of(output: Any) -> Cache | None:
    """The cache that a forward pass returned, None where it returned none."""
    cache: Cache | None = getattr(output, _field(output), None)
    return cache


def without_cache(output: Any) -> Any:
    """What a forward pass returned, without the cache."""
    if isinstance(output, tuple):  # return_dict=False
        return tuple(part for part in output if not isinstance(part, Cache))
    if cache_of(output) is None:
        return output
    # a new object, because setting a field to None leaves the value under its key
    return dataclasses.replace(output, **{_field(output): None})


def recomputes_activations(model: PreTrainedModel) -> bool:
    """Whether gradient checkpointing is on, which is called activation checkpointing from 5.24 on."""
    new = "is_activation_checkpointing"
    return bool(getattr(model, new if hasattr(type(model), new) else "is_gradient_checkpointing"))


def recompute_activations(
    model: PreTrainedModel, again: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> None:
    """Turns gradient checkpointing on: the backward pass runs layers again, inside ``again()``, to get activations.

    Raises:
        ValueError: the model's family has no gradient checkpointing.
    """
    new = "activation_checkpointing_enable"
    turn_on = getattr(model, new if hasattr(model, new) else "gradient_checkpointing_enable")
    turn_on({"use_reentrant": False, "context_fn": lambda: (nullcontext(), again())})


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be read. Tensors on the meta device and torch's fake tensors have none."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def _field(output: Any) -> str:
    return "cache" if hasattr(output, "cache") else OLD_CACHE_NAME
