"""Virtual tokens in front of the real ones: masks, positions, caches and logits, the same for every method.

A hook on the causal language model rewrites each call. The model keeps its signature, `generate` works with and without
a cache, and logits come back for the real tokens only. A call with an empty cache, or with none, is a prefill and gets
the virtual tokens. A later call has them in its cache; only its mask and positions must count them.

Hooks are bound methods and not closures, so a deep copy of the model has a method of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from methods.compat import OLD_CACHE_NAME, cache_argument, recomputes_activations, without_cache
from methods.errors import MethodError, Unsupported

Arguments = dict[str, Any]


def require_arguments(model: PreTrainedModel, *names: str) -> None:
    """Refuses a model to which virtual tokens can't be passed by these arguments of its forward pass.

    A forward pass takes any other argument as one of its ``**kwargs``, and may ignore it.

    Raises:
        Unsupported: the message names the model and what is missing.
    """
    known = inspect.signature(model.forward).parameters
    if missing := [name for name in (*names, "attention_mask") if name not in known]:
        lacks = " and no ".join("cache" if name == OLD_CACHE_NAME else name for name in missing)
        raise Unsupported(f"{type(model).__name__}.forward takes no {lacks}, by which virtual tokens are passed to it")


class VirtualTokens:
    """Hooks that put k virtual positions in front of every sequence, until ``handles`` are removed."""

    def __init__(self, model: PreTrainedModel, count: int, prefill: Callable[[Arguments], None]) -> None:
        """``prefill`` gets the arguments of a prefill by name, and puts the virtual tokens into them."""
        self.count = count
        self.prefill = prefill
        self.prefilling = False
        """Whether the call that runs now is a prefill; the hooks of layers read it."""
        self.parameters = list(inspect.signature(model.forward).parameters)
        self.cache_argument = cache_argument(model)
        self.window = _shortest_window(model)
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[()], Arguments]:
        call = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        if (old := call.pop(OLD_CACHE_NAME, None)) is not None:  # a caller may still use that name
            call[self.cache_argument] = old
        cache: Cache | None = call.get(self.cache_argument)
        cached = 0 if cache is None else cache.get_seq_length()
        if isinstance(cached, Tensor) and _traced(cached):
            # this is a static cache, filled already, and reading its length here would break the graph
            self.prefilling = False
        else:
            self.prefilling = int(cached) == 0
            real = max(0, int(cached) - self.count) + _length(call)
            self._check_continuation(call, real)
            self._check_mask(call.get("attention_mask"), real)
        self._count_in(call)
        if self.prefilling:
            self.prefill(call)
        return (), call

    def _after(self, model: nn.Module, _args: tuple[Any, ...], kwargs: Arguments, output: Any) -> Any:
        # Layers that are run again for the backward pass may run their hooks again (transformers before 5.24).
        assert isinstance(model, PreTrainedModel)
        self.prefilling = self.prefilling and model.training and recomputes_activations(model)
        # A prefix comes in a cache. A caller who wants no cache gets none back, or `generate` would use it.
        return without_cache(output) if kwargs.get("use_cache") is False else None

    def _check_continuation(self, call: Arguments, real: int) -> None:
        """Refuses input from which `generate` cut too much, because it counted virtual tokens in the cache as real."""
        mask, positions = call.get("attention_mask"), call.get("position_ids")
        covered = real
        if isinstance(mask, Tensor) and mask.ndim == 2:
            covered = int(mask.shape[1])
        elif mask is None and positions is not None and not self.prefilling and _length(call) > 1:
            covered = int(positions[0, -1]) + 1  # read in this case only, because reading waits for a GPU
        if covered != real:
            raise MethodError(
                f"mask or positions cover {covered} tokens, but cache and input have {real}: `generate` expects no "
                "virtual tokens in a cache that it is given; pass the new tokens to the model itself"
            )

    def _check_mask(self, mask: Any, real: int) -> None:
        """Refuses masks with which results would be silently wrong; ``real`` counts the tokens in cache and input."""
        if mask is None:
            return
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise MethodError(
                f"methods with virtual tokens need an attention mask of shape [batch, length], not {shape}; "
                "generate without a static cache"
            )
        if self.window is not None and self.count + real > self.window and not mask.all():
            raise MethodError(
                f"padded sequences of {self.count + real} positions, virtual ones included, exceed the sliding window "
                f"of {self.window}, where padding would push virtual tokens out; use one sequence at a time"
            )

    def _count_in(self, call: Arguments) -> None:
        """Extends the mask by k and moves the positions, so that real token i is at k + i."""
        mask: Tensor | None = call.get("attention_mask")
        if mask is not None:
            mask = torch.cat([mask.new_ones(mask.shape[0], self.count), mask], dim=1)
            call["attention_mask"] = mask
        if call.get("position_ids") is not None:
            call["position_ids"] = call["position_ids"] + self.count
        elif mask is not None:
            # padding takes no position; without padding the model would compute the same positions
            call["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -_length(call) :]


def _shortest_window(model: PreTrainedModel) -> int | None:
    """The number of positions that a layer with sliding-window attention sees, None where every layer sees all."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds)
    return int(window) if window and slides else None


def _traced(tensor: Tensor) -> bool:
    """Whether operations on ``tensor`` are being compiled, or captured as a CUDA graph."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _length(call: Arguments) -> int:
    tokens = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
    return int(tokens.shape[1])


@dataclass(frozen=True, eq=False)
class PrependEmbeddings:
    """A prefill that puts ``vectors()`` [k, d] in front of the input embeddings."""

    model: PreTrainedModel
    vectors: Callable[[], Tensor]

    @staticmethod
    def check(model: PreTrainedModel) -> None:
        """Refuses a model that takes no embeddings, see `require_arguments`."""
        require_arguments(model, "inputs_embeds", "position_ids", "logits_to_keep")

    def __call__(self, call: Arguments) -> None:
        """Rewrites the arguments of a forward pass in place."""
        length = _length(call)
        embeds: Tensor | None = call.get("inputs_embeds")
        if embeds is None:
            embeds = self.model.get_input_embeddings()(call.pop("input_ids"))
        assert embeds is not None
        front = self.vectors()
        call["inputs_embeds"] = torch.cat([front.expand(embeds.shape[0], -1, -1).to(embeds.dtype), embeds], dim=1)
        call["input_ids"] = None
        positions: Tensor | None = call.get("position_ids")
        if positions is not None:
            virtual = torch.arange(front.shape[0], device=positions.device).expand(positions.shape[0], -1)
            call["position_ids"] = torch.cat([virtual, positions], dim=1)
        # the output head runs on the real tokens only, so logits and labels line up as without the method
        keep = call.get("logits_to_keep", 0)
        call["logits_to_keep"] = keep + front.shape[0] if isinstance(keep, Tensor) else min(keep or length, length)


@dataclass(frozen=True, eq=False)
class FillCache:
    """A prefill that fills an empty cache with ``keys_and_values()`` [L, 2, k, d_kv], split over ``heads``."""

    model: PreTrainedModel
    keys_and_values: Callable[[], Tensor]
    heads: int
    argument: str
    """See `methods.compat.cache_argument`. It is looked up once, because that takes longer than the rest of a call."""

    @staticmethod
    def check(model: PreTrainedModel) -> None:
        """Refuses a model that takes no cache, see `require_arguments`."""
        require_arguments(model, cache_argument(model), "position_ids")

    def __call__(self, call: Arguments) -> None:
        """Rewrites the arguments of a forward pass in place.

        Raises:
            MethodError: the model drops its cache.
        """
        if self.model.training and recomputes_activations(self.model):
            raise MethodError("prefix tuning can't train with gradient checkpointing, which drops its cache")
        tokens: Tensor = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
        if call.get(self.argument) is None:
            call[self.argument] = DynamicCache(config=self.model.config)
        # [L, 2, k, d_kv] -> [L, 2, 1, heads, k, head size] -> one batch entry each
        prefix = self.keys_and_values().unflatten(-1, (self.heads, -1)).transpose(2, 3).unsqueeze(2)
        prefix = prefix.expand(-1, -1, tokens.shape[0], -1, -1, -1)
        for layer, (keys, values) in enumerate(prefix):
            call[self.argument].update(keys, values, layer)
