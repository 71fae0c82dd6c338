"""Virtual tokens in front of a model's real ones: masks, positions, caches and logits, the same for every method.

A hook on the causal language model rewrites each call, so that the model keeps its signature, `generate` works with and
without a cache, and logits come back for the real tokens only. A call with an empty cache (or none) is a prefill and
gets the virtual tokens; a later one finds them in its cache and only needs mask and positions to count them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
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
    """Hooks that put k virtual positions in front of every sequence, until `remove` is called."""

    def __init__(self, model: PreTrainedModel, count: int, prefill: Callable[[Arguments], None]) -> None:
        """``prefill`` is given the bound arguments of a prefill and puts the virtual tokens into them."""
        self.count = count
        self.prefill = prefill
        self.prefilling = False
        """Whether the call under way is a prefill; layers' hooks read it."""
        self.parameters = list(inspect.signature(model.forward).parameters)
        self.cache_argument = cache_argument(model)
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(_hide_cache, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Takes all hooks out of the model."""
        for handle in self.handles:
            handle.remove()

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: Arguments) -> tuple[tuple[()], Arguments]:
        call = {**dict(zip(self.parameters, args, strict=False)), **kwargs}
        if OLD_CACHE_NAME in call:  # a caller may still use it
            call[self.cache_argument] = call.pop(OLD_CACHE_NAME)
        cache: Cache | None = call.get(self.cache_argument)
        self.prefilling = cache is None or int(cache.get_seq_length()) == 0
        self._count_in(call)
        if self.prefilling:
            self.prefill(call)
        return (), call

    def _count_in(self, call: Arguments) -> None:
        """Lengthens the mask and moves the positions, so that real token i stands at k + i."""
        mask: Tensor | None = call.get("attention_mask")
        if mask is not None:
            if mask.ndim != 2:
                raise MethodError(
                    f"methods with virtual tokens need an attention mask [batch, length], not {tuple(mask.shape)}"
                )
            mask = torch.cat([mask.new_ones(mask.shape[0], self.count), mask], dim=1)
            call["attention_mask"] = mask
        if call.get("position_ids") is not None:
            call["position_ids"] = call["position_ids"] + self.count
        elif mask is not None:
            # padding takes no position; without padding this is what the model would have done itself
            length = _length(call)
            call["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


def _hide_cache(_module: nn.Module, _args: tuple[Any, ...], kwargs: Arguments, output: Any) -> Any:
    """A caller who wants no cache gets none back, though a prefix came in one: `generate` would go on to use it."""
    return without_cache(output) if kwargs.get("use_cache") is False else None


def _length(call: Arguments) -> int:
    tokens = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
    return int(tokens.shape[1])


def prepend_embeddings(model: PreTrainedModel, vectors: Callable[[], Tensor]) -> Callable[[Arguments], None]:
    """A prefill that stands ``vectors()`` [k, d] in front of the input embeddings."""

    def prefill(call: Arguments) -> None:
        length = _length(call)
        embeds: Tensor | None = call.get("inputs_embeds")
        if embeds is None:
            embeds = model.get_input_embeddings()(call.pop("input_ids"))
        assert embeds is not None
        front = vectors()
        call["inputs_embeds"] = torch.cat([front.expand(embeds.shape[0], -1, -1).to(embeds.dtype), embeds], dim=1)
        call["input_ids"] = None
        positions: Tensor | None = call.get("position_ids")
        if positions is not None:
            virtual = torch.arange(front.shape[0], device=positions.device).expand(positions.shape[0], -1)
            call["position_ids"] = torch.cat([virtual, positions], dim=1)
        # The output head runs on the real tokens only, so logits and labels line up as they do without the method.
        keep = call.get("logits_to_keep", 0)
        if isinstance(keep, Tensor):
            call["logits_to_keep"] = keep + front.shape[0]
        elif keep == 0:
            call["logits_to_keep"] = length

    return prefill


def fill_cache(
    model: PreTrainedModel, keys_and_values: Callable[[], Tensor], heads: int
) -> Callable[[Arguments], None]:
    """A prefill that fills an empty cache with ``keys_and_values()`` [L, 2, k, d_kv], split over ``heads``."""
    argument = cache_argument(model)

    def prefill(call: Arguments) -> None:
        if model.training and recomputes_activations(model):
            raise MethodError("prefix tuning can't train with gradient checkpointing: the model drops its cache there")
        tokens: Tensor = call["input_ids"] if call.get("input_ids") is not None else call["inputs_embeds"]
        if call.get(argument) is None:
            call[argument] = DynamicCache(config=model.config)
        # [L, 2, k, d_kv] -> [L, 2, 1, heads, k, head size] -> one batch entry each
        prefix = keys_and_values().unflatten(-1, (heads, -1)).transpose(2, 3).unsqueeze(2)
        prefix = prefix.expand(-1, -1, tokens.shape[0], -1, -1, -1)
        for layer, (keys, values) in enumerate(prefix):
            call[argument].update(keys, values, layer)

    return prefill
