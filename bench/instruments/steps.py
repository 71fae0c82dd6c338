"""What is timed step by step, prefill and decode, in each way of executing a model.

A step is launched by Python operation by operation (*eager*), from code that ``torch.compile`` made of the model, or as
one CUDA graph that was captured once and is replayed. At batch 1 an eager decode step times the host and not the
device, so that these are cells of their own and never rows of one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticCache

from bench.config import CacheKind, Execution, Runtime
from methods import Unsupported
from methods.compat import cache_argument, cache_of

MOST_STEPS = 64
"""Longest run of decode steps, discarded ones included, before the cache is cut back to the prompt."""
CAPTURE_WARMUP = 3
"""Runs before a capture, in which libraries allocate their workspaces: that must not happen while it is captured."""

EAGER = Runtime(name="eager")
MOST_COMPILED = 4096
"""Compiled forms of one function: one for each arm, phase and workload point."""

Run = Callable[[], object]
Call = Callable[..., Any]


class Steps(Protocol):
    """Something that is timed step by step."""

    def run(self, count: int) -> None:
        """Runs ``count`` steps."""

    def reset(self) -> None:
        """Goes back to where the first step began."""


class Prefill:
    """One forward pass over the prompt [B, T] that fills an empty cache, logits of the last token only."""

    def __init__(self, model: PreTrainedModel, prompt: Tensor, runtime: Runtime = EAGER) -> None:
        call = called(model, runtime)
        self.once = launched(lambda: call(input_ids=prompt, use_cache=True, logits_to_keep=1), runtime)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def reset(self) -> None:
        """Nothing stays between passes."""


class Decode:
    """One token a sequence [B, 1] on top of a cache that holds the prompt (and virtual tokens, if any)."""

    def __init__(self, model: PreTrainedModel, prompt: Tensor, runtime: Runtime = EAGER) -> None:
        self.model = model
        self.prompt = prompt
        self.static = runtime.cache is CacheKind.static
        self.cache = self._filled()
        self.length = int(self.cache.get_seq_length())
        call, token, argument = called(model, runtime), prompt[:, -1:], cache_argument(model)
        self.once = launched(lambda: call(input_ids=token, use_cache=True, **{argument: self.cache}), runtime)
        self.reset()  # what was tried out has left its tokens

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def reset(self) -> None:
        if all(getattr(layer, "is_croppable", True) for layer in self.cache.layers):
            self.cache.crop(self.length - int(self.cache.get_seq_length()))
        else:
            self.cache = self._filled()

    def _filled(self) -> Cache:
        cache = cache_of(self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1))
        assert cache is not None
        return preallocated(self.model, cache) if self.static else cache


PHASES: Mapping[str, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}


def called(model: PreTrainedModel, runtime: Runtime) -> Call:
    """What is called in place of the model."""
    if runtime.execution is not Execution.compile:
        return model
    settings: Any = torch._dynamo.config
    # all arms are compiled from the same functions, and past its limit torch would go on in Python without a word
    settings.recompile_limit = settings.accumulated_recompile_limit = MOST_COMPILED
    settings.fail_on_recompile_limit_hit = True
    compiled: Call = torch.compile(model, backend=runtime.backend, dynamic=False)
    return compiled


def launched(step: Run, runtime: Runtime) -> Run:
    """What is run in place of one step, which has run by then where it had to be compiled or captured.

    Raises:
        Unsupported: it can't be compiled here, or no CUDA graph can be made of it.
    """
    if runtime.execution is Execution.cudagraph:
        return capture(step)
    if runtime.execution is Execution.compile:
        try:
            step()  # which compiles it
        except TorchDynamoException as error:
            raise Unsupported(f"runtime={runtime.name}: {' '.join(str(error).split())[:200]}") from error
    return step


def capture(step: Run) -> Run:
    """Captures ``step`` as a CUDA graph and returns its replay.

    Raises:
        Unsupported: it does what a graph can't hold, such as reading a number back from the device.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(CAPTURE_WARMUP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:  # torch has no class of its own for it
        line = str(error).split("\n", maxsplit=1)[0]
        raise Unsupported(f"runtime=cudagraph: no graph can be captured of its step: {line}") from error
    return graph.replay


def preallocated(model: PreTrainedModel, filled: Cache) -> Cache:
    """A static cache with the same keys and values and room for `MOST_STEPS` more: the addresses stay, as graphs need.

    Raises:
        Unsupported: a layer sees a window only, whose cache a step can't be taken back in.
    """
    length = int(filled.get_seq_length())
    config = model.config.get_text_config()
    static = StaticCache(config=config, max_cache_len=length + MOST_STEPS)
    layers: list[Any] = filled.layers
    if any(getattr(layer, "is_sliding", False) for layer in (*layers, *static.layers)):
        raise Unsupported("runtime.cache=static: layers with sliding-window attention can't be taken back a step in it")
    for number, layer in enumerate(layers):
        static.update(layer.keys, layer.values, number)
    return static
