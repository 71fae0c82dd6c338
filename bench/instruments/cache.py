"""What a cache holds, layer by layer: positions of attention, a window of them, or a state that no position has.

transformers gives each layer of a model a cache layer of its own kind. Attention keeps keys and values of every
position, or of the last ones that a sliding window still sees. Recurrent layers and convolutions keep a state of fixed
size, which a step overwrites. A layer that has nothing to keep (feed-forward alone, keys of another layer) keeps none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

GROWING = ("keys", "values", "indexer_keys")
"""Attributes of a layer with a tensor [..., positions, d]."""


def attention_lengths(cache: Cache) -> dict[str, list[int]]:
    """Positions that each layer with attention holds: those that see all (``full``), those with a window (``sliding``).

    A window is full at one position less than it is wide, because the next token brings its own.
    """
    found: dict[str, list[int]] = {"full": [], "sliding": []}
    for layer in cache.layers:
        if (length := _length(layer)) is not None:
            found["full" if window_of(layer) is None else "sliding"].append(length)
    return found


def window_of(layer: Any) -> int | None:
    """The positions that a layer sees, its own included; None where it sees all."""
    return int(layer.sliding_window) if getattr(layer, "is_sliding", False) else None


def cache_bytes(cache: Cache, positions: int | None = None) -> int:
    """Bytes of all states of a cache, or of the same cache with ``positions`` in it, which must hold one or more."""
    total = 0
    for layer in cache.layers:
        length, window = _length(layer), window_of(layer)
        for name, value in vars(layer).items():
            size = sum(tensor.nbytes for tensor in _states(value))
            if positions is not None and length and name in GROWING:
                size = size // length * (positions if window is None else min(positions, window))
            total += size
    return total


class LayerState:
    """What a layer of a cache holds now, to be put back after steps that changed it.

    Tensors that steps write in place get their values back at the same address, because a graph reads them there. The
    keys and values of a static layer need not: what steps wrote behind its length is not seen.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._attributes = _copied(vars(layer))
        fixed = isinstance(layer, StaticLayer)
        kept = {name: value for name, value in vars(layer).items() if not (fixed and name in GROWING)}
        self._values = [(tensor, tensor.clone()) for tensor in _tensors(kept)]

    def restore(self) -> None:
        """Puts it back."""
        for tensor, value in self._values:
            tensor.copy_(value)
        vars(self._layer).update(_copied(self._attributes))


class LayerLength:
    """As `LayerState`, of a layer to which steps append: what they appended is cut off, and nothing need be kept."""

    def __init__(self, layer: DynamicLayer) -> None:
        self._layer = layer
        self._length = layer.get_seq_length()

    def restore(self) -> None:
        """Cuts it off."""
        if added := self._layer.get_seq_length() - self._length:
            self._layer.crop(-added)


def states_of(cache: Cache) -> list[LayerState | LayerLength]:
    """The present states of all layers of a cache."""
    # a subclass may hold more than keys and values, such as those that have left its window
    return [LayerLength(layer) if type(layer) is DynamicLayer else LayerState(layer) for layer in cache.layers]


def _length(layer: Any) -> int | None:
    keys = getattr(layer, "keys", None)
    return None if keys is None else int(keys.shape[-2])


def _states(value: object) -> Iterator[Tensor]:
    """Tensors [...] of a state; one without dimensions is a number that the layer keeps for itself."""
    return (tensor for tensor in _tensors(value) if tensor.ndim)


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    """The same values in new containers."""
    copied: dict[str, Any] = tree_map(lambda value: value, attributes)
    return copied
