"""The cache after prefill, read from the cache object, and how many positions the last layer fed forward to fill it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.records.metrics import Better, Metric, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject

METRICS = (
    Metric(
        "cache_length", "cache", Unit.TOKENS, Better.LOWER, "Positions in the longest cache of a layer after prefill."
    ),
    Metric(
        "sliding_cache_length",
        "window cache",
        Unit.TOKENS,
        Better.LOWER,
        "Positions in the longest cache of a layer with sliding-window attention after prefill.",
    ),
    Metric(
        "cache_bytes",
        "cache size",
        Unit.BYTES,
        Better.LOWER,
        "Bytes of keys, values and recurrent states for one sequence, all layers.",
    ),
    Metric(
        "fed_positions",
        "fed",
        Unit.TOKENS,
        Better.LOWER,
        "Positions that the last decoder layer fed forward at prefill.",
    ),
)
NEEDS_DATA = False
NO_POSITIONS = "no layer keeps positions, because their states are recurrent"
NO_WINDOW = "no layer has sliding-window attention"
NOT_PASSED = "the method does not pass its layers a tensor"


def measure_inference(subject: InferenceSubject) -> Iterator[Measurement | Missing]:
    """One prefill for each workload point."""
    import torch

    from methods.architectures import sizes_of
    from methods.compat import cache_of

    seen: list[int | None] = []

    def record_length(_module: Any, args: tuple[Any, ...]) -> None:
        hidden = args[0] if args else None  # [B, positions, d]
        seen.append(hidden.shape[1] if isinstance(hidden, torch.Tensor) else None)

    last = subject.base.get_submodule(sizes_of(subject.base).layers[-1])
    for batch, length in subject.plan.points():
        handle = last.register_forward_pre_hook(record_length)
        try:
            with torch.no_grad():
                prompt = subject.prompt(batch, length)
                cache = cache_of(subject.model(input_ids=prompt, use_cache=True, logits_to_keep=1))
        finally:
            handle.remove()
        yield from _found(_held(cache, batch), subject.state, batch, length)
        fed = seen.pop()
        yield from _found({"fed_positions": fed or NOT_PASSED}, subject.state, batch, length)


def _held(cache: Any, batch: int) -> dict[str, int | str]:
    """Each metric of transformers' cache of ``batch`` sequences, or of None, or why there is none."""
    from bench.instruments.cache import attention_lengths, cache_bytes
    from bench.instruments.steps import NO_CACHE

    if cache is None:
        return dict.fromkeys(("cache_length", "sliding_cache_length", "cache_bytes"), NO_CACHE)
    lengths = attention_lengths(cache)
    return {
        "cache_length": max((*lengths["full"], *lengths["sliding"]), default=0) or NO_POSITIONS,
        "sliding_cache_length": max(lengths["sliding"], default=0) or NO_WINDOW,
        "cache_bytes": cache_bytes(cache) // batch,
    }


def _found(values: Mapping[str, int | str], state: str, batch: int, length: int) -> Iterator[Measurement | Missing]:
    for name, value in values.items():
        if isinstance(value, str):
            yield Missing(name, state, value)
        else:
            yield Measurement(name, value, state, batch, length)
