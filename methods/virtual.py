"""Virtual tokens in front of a model's real ones: masks, positions, caches and logits, the same for every method.

A hook on the causal language model rewrites each call, so that the model keeps its signature, `generate` works with and
without a cache, and logits come back for the real tokens only. A call with an empty cache (or none) is a prefill and
gets the virtual tokens; a later one finds them in its cache and only needs mask and positions to count them.

Hooks are bound methods and not closures: a deep copy of the model then has a method of its own.
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
from methods.errors import MethodError

Arguments = dict[str, Any]


class VirtualTokens:
    """Hooks that put k virtual positions in front of every sequence, until their ``handles`` are removed."""

    def __init__(self, model: PreTrainedModel, count: int, prefill: Callable[[Arguments], None]) -> None:
        """``prefill`` is given the bound arguments of a prefill and puts the virtual tokens into them."""
        self.count = count
        self.prefill = prefill
        self.prefilling = False
        """Whether the call under way is a prefill; layers' hooks read it."""
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
            # of a static cache that is filled already: to read its length here would break the graph
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
        # Where layers are run again for the backward pass their hooks may be too (transformers before 5.24).
        assert isinstance(model, PreTrainedModel)
        self.prefilling = self.prefilling and model.training and recomputes_activations(model)
        # A caller who wants no cache gets none back, though a prefix came in one: `generate` would go on to use it.
        return without_cache(output) if kwargs.get("use_cache") is False else None

    def _check_continuation(self, call: Arguments, real: int) -> None:
        """Refuses input that `generate` cut by a cache in which it took virtual tokens for real ones."""
        mask, positions = call.get("attention_mask"), call.get("position_ids")
        covered = real
        if isinstance(mask, Tensor) and mask.ndim == 2:
            covered = int(mask.shape[1])
        elif mask is None and positions is not None and not self.prefilling and _length(call) > 1:
            covered = int(positions[0, -1]) + 1  # read only here, for on a GPU this waits for the device
        if covered != real:
            raise MethodError(
                f"mask or positions speak of {covered} tokens, cache and input have {real}: `generate` knows no "
                "virtual tokens in a cache that it is given; pass the new tokens to the model itself"
            )

    def _check_mask(self, mask: Any, real: int) -> None:
        """Refuses what would be silently wrong; ``real`` positions are in the cache or come with this call."""
        if mask is None:
            return
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise MethodError(
                f"methods with virtual tokens need an attention mask [batch, length], not {shape}; "
                "generate without a static cache"
            )
        if self.window is not None and self.count + real > self.window and not mask.all():
            raise MethodError(
                f"padded sequences of {self.count + real} positions, virtual ones included, exceed the sliding window "
                f"of {self.window}, in which padding would displace virtual tokens; use one sequence at a time"
            )

    def _count_in(self, call: Arguments) -> None:
        """Lengthens the mask and moves the positions, so that real token i stands at k + i."""
        mask: Tensor | None = call.get("attention_mask")
        if mask is not None:
            mask = torch.cat([mask.new_ones(mask.shape[0], self.count), mask], dim=1)
            call["attention_mask"] = mask
        if call.get("position_ids") is not None:
            call["position_ids"] = call["position_ids"] + self.count
        elif mask is not None:
            # padding takes no position; without padding this is what the model would have done itself
            call["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -_length(call) :]


def _shortest_window(model: PreTrainedModel) -> int | None:
    """Positions that a layer with sliding-window attention sees, None where every layer sees all."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = getattr(config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds)
    return int(window) if window and slides else None


def _traced(tensor: Tensor) -> bool:
    """Whether what is done with ``tensor`` is being compiled, or captured as a CUDA graph."""
    return torch.compiler.is_compiling() or (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def _length(call: Arguments) -> int:
    tokens = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
    return int(tokens.shape[1])


@dataclass(frozen=True, eq=False)
class PrependEmbeddings:
    """A prefill that stands ``vectors()`` [k, d] in front of the input embeddings."""

    model: PreTrainedModel
    vectors: Callable[[], Tensor]

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
        # The output head runs on the real tokens only, so logits and labels line up as they do without the method.
        keep = call.get("logits_to_keep", 0)
        call["logits_to_keep"] = keep + front.shape[0] if isinstance(keep, Tensor) else min(keep or length, length)


@dataclass(frozen=True, eq=False)
class FillCache:
    """A prefill that fills an empty cache with ``keys_and_values()`` [L, 2, k, d_kv], split over ``heads``."""

    model: PreTrainedModel
    keys_and_values: Callable[[], Tensor]
    heads: int
    argument: str
    """See `methods.compat.cache_argument`; looked up once, for it takes longer than all else here."""

    def __call__(self, call: Arguments) -> None:
        """Rewrites the arguments of a forward pass in place.

        Raises:
            MethodError: the model drops its cache.
        """
        if self.model.training and recomputes_activations(self.model):
            raise MethodError("prefix tuning can't train with gradient checkpointing: the model drops its cache there")
        tokens: Tensor = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
        if call.get(self.argument) is None:
            call[self.argument] = DynamicCache(config=self.model.config)
        # [L, 2, k, d_kv] -> [L, 2, 1, heads, k, head size] -> one batch entry each
        prefix = self.keys_and_values().unflatten(-1, (self.heads, -1)).transpose(2, 3).unsqueeze(2)
        prefix = prefix.expand(-1, -1, tokens.shape[0], -1, -1, -1)
        for layer, (keys, values) in enumerate(prefix):
            call[self.argument].update(keys, values, layer)
