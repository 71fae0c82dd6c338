"""What is timed step by step, prefill and decode, in each way of executing a model.

A step is launched by Python operation by operation (*eager*), from code that ``torch.compile`` made of the model, or as
one CUDA graph that was captured once and is replayed. At batch 1 an eager decode step times the host and not the
device, so that these are cells of their own and never rows of one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.utils import counters
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticCache

from bench.config.schema import CacheKind, Execution, Runtime
from methods import Unsupported
from methods.compat import cache_argument, cache_of

MOST_STEPS = 64
"""Longest run of decode steps, discarded ones included, before the cache is cut back to the prompt."""
CAPTURE_WARMUP = 3
"""Runs before a capture, on its own stream, in which libraries allocate what they keep for that stream."""
COMPILE_WARMUP = 3
"""Runs after which nothing may be compiled any more."""

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
        """Positions that the cache holds before the first step."""
        call, token, argument = called(model, runtime), prompt[:, -1:], cache_argument(model)
        self.once = launched(lambda: call(input_ids=token, use_cache=True, **{argument: self.cache}), runtime)
        self.reset()  # what was tried out has left its tokens

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def reset(self) -> None:
        layers: list[Any] = self.cache.layers
        if self.static:
            for layer in layers:  # in place, since a graph goes on to read it; no release crops a static cache so
                layer.cumulative_length.fill_(self.length)
        elif all(getattr(layer, "is_croppable", True) for layer in layers):
            self.cache.crop(self.length - int(self.cache.get_seq_length()))
        else:
            self.cache = self._filled()

    def _filled(self) -> Cache:
        cache = cache_of(self.model(input_ids=self.prompt, use_cache=True, logits_to_keep=1))
        assert cache is not None
        return preallocated(self.model, cache) if self.static else cache


PHASES: Mapping[str, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}


def compile_without_end() -> None:
    """Has torch compile every arm, in the whole process.

    All are compiled from the same functions, and past its limit it would go on in Python without a word.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = settings.accumulated_recompile_limit = MOST_COMPILED
    settings.fail_on_recompile_limit_hit = True


def called(model: PreTrainedModel, runtime: Runtime) -> Call:
    """What is called in place of the model."""
    if runtime.execution is not Execution.compile:
        return model
    compiled: Call = torch.compile(model, backend=runtime.backend, dynamic=False)
    return compiled


def launched(step: Run, runtime: Runtime) -> Run:
    """What is run in place of one step, which has run by then where it had to be compiled or captured.

    Raises:
        Unsupported: it can't be compiled here, or no CUDA graph can be made of it.
    """
    if runtime.execution is Execution.cudagraph:
        return Replayed(step)
    if runtime.execution is Execution.compile:
        compile_once(step)
    return step


def compile_once(step: Run) -> None:
    """Runs a compiled step until nothing more is compiled.

    Raises:
        Unsupported: it can't be compiled here, or is compiled again at every step.
    """
    try:
        made = []
        for _ in range(COMPILE_WARMUP):
            step()
            made.append(counters["stats"]["unique_graphs"])
    except TorchDynamoException as error:
        _raise_if_memory(error)
        raise Unsupported(f"execution=compile: {' '.join(str(error).split())[:200]}") from error
    if made[-1] != made[-2]:
        raise Unsupported("execution=compile: the model is compiled again at every step")


class Replayed:
    """A step captured as a CUDA graph.

    It keeps the step, and so all tensors that the graph reads: memory that nobody refers to is given to others.
    """

    def __init__(self, step: Run) -> None:
        """Captures it.

        Raises:
            Unsupported: it does what a graph can't hold, such as reading a number back from the device.
        """
        self.step = step
        stream = capture_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(CAPTURE_WARMUP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph, stream=stream):
                step()
        except RuntimeError as error:  # torch has no class of its own for it
            _raise_if_memory(error)
            raise Unsupported(f"execution=cudagraph: no graph can be captured of a step: {_first(error)}") from error

    def __call__(self) -> None:
        self.graph.replay()


@cache
def capture_stream() -> torch.cuda.Stream:
    """One for all captures: libraries keep a workspace for each stream that they are used on."""
    return torch.cuda.Stream()


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it was raised during, the first to happen last."""
    found = [error]
    while (before := found[-1].__cause__ or found[-1].__context__) is not None and before not in found:
        found.append(before)
    return found


def _raise_if_memory(error: BaseException) -> None:
    """Running out of memory is an outcome of its own, whatever it was that could not be finished for it."""
    for cause in _causes(error):
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause


def _first(error: BaseException) -> str:
    """In one line, what went wrong first: that a capture was ended is only what followed."""
    kind = [cause for cause in _causes(error) if isinstance(cause, RuntimeError)]
    return str(kind[-1]).split("\n", maxsplit=1)[0]


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
        raise Unsupported("cache=static: layers with sliding-window attention can't be taken back a step in it")
    for number, layer in enumerate(layers):
        static.update(layer.keys, layer.values, number)
    return static
