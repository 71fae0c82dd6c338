"""The cache after prefill, read from the cache object, and how many positions each layer fed forward to fill it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.records.metrics import Better, Metric, Unit
from bench.records.record import Measurement, Missing
from bench.workload.subject import InferenceSubject

METRICS = (
    Metric("cache_length", "cache", Unit.TOKENS, Better.LOWER, "Positions in the cache of a layer after prefill."),
    Metric(
        "cache_bytes", "cache size", Unit.BYTES, Better.LOWER, "Bytes of keys and values for one sequence, all layers."
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
        assert cache is not None
        layers: list[Any] = cache.layers  # transformers' union also names kinds without keys
        tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors) // batch
        yield Measurement("cache_length", int(cache.get_seq_length()), subject.state, batch, length)
        yield Measurement("cache_bytes", size, subject.state, batch, length)
        fed = seen.pop()
        if fed is None:
            yield Missing("fed_positions", subject.state, "the method does not pass its layers a tensor")
        else:
            yield Measurement("fed_positions", fed, subject.state, batch, length)
