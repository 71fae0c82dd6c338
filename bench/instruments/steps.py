"""Steps that are timed: prefill and decode, in each way of executing a model.

A step is launched by Python operation by operation (*eager*), runs code that ``torch.compile`` generated, or replays a
CUDA graph that was captured once. At batch 1 an eager decode step times the host and not the device. So these runtimes
are different cells and never stand in one table.
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

from bench.config.schema import MAX_STEPS, CacheKind, Execution, Runtime
from bench.instruments.cache import attention_lengths, states_of, window_of
from methods import Unsupported
from methods.compat import cache_argument, cache_of

CAPTURE_WARMUP = 3
"""Runs before a capture, on the capture's stream, in which libraries allocate what they keep for that stream."""
COMPILE_WARMUP = 3
"""Runs after which nothing may be compiled again."""

EAGER = Runtime(name="eager")
MAX_COMPILED = 4096
"""Compiled forms of one function: one for each arm, phase and workload point."""

NO_CACHE = "the model returns no cache on which the next token could be computed"

Run = Callable[[], object]
Call = Callable[..., Any]


class NoCache(Unsupported):
    """The model has no decode step: for each token it computes all of the text again."""


class Steps(Protocol):
    """Steps that can be timed."""

    def run(self, count: int) -> None:
        """Runs ``count`` steps."""

    def reset(self) -> None:
        """Goes back to the state before the first step."""


class Prefill:
    """One forward pass over the prompt [B, T] that fills an empty cache, logits of the last token only."""

    def __init__(self, model: PreTrainedModel, prompt: Tensor, runtime: Runtime = EAGER) -> None:
        call = forward_fn(model, runtime)
        self.once = prepare_step(lambda: call(input_ids=prompt, use_cache=True, logits_to_keep=1), runtime)

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def reset(self) -> None:
        """Nothing stays between passes."""


class Decode:
    """One token a sequence [B, 1] on top of a cache that holds the prompt (and virtual tokens, if any)."""

    def __init__(
        self, model: PreTrainedModel, prompt: Tensor, runtime: Runtime = EAGER, filled: Cache | None = None
    ) -> None:
        """``filled``: what `filled_cache` gives for this prompt; None to fill a cache here.

        Raises:
            NoCache: as `filled_cache`.
            Unsupported: as `static_cache` and `prepare_step`.
        """
        cache = filled_cache(model, prompt) if filled is None else filled
        self.cache = static_cache(model, cache) if runtime.cache is CacheKind.static else cache
        self.start = states_of(self.cache)
        call, token, argument = forward_fn(model, runtime), prompt[:, -1:], cache_argument(model)
        self.once = prepare_step(lambda: call(input_ids=token, use_cache=True, **{argument: self.cache}), runtime)
        self.reset()  # compiling and capturing have run the step

    def run(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def reset(self) -> None:
        for state in self.start:
            state.restore()


def filled_cache(model: PreTrainedModel, prompt: Tensor) -> Cache:
    """The cache after one forward pass over the prompt [B, T].

    Raises:
        NoCache: there is none.
    """
    cache = cache_of(model(input_ids=prompt, use_cache=True, logits_to_keep=1))
    if cache is None:
        raise NoCache(NO_CACHE)
    return cache


PHASES: Mapping[str, type[Prefill] | type[Decode]] = {"prefill": Prefill, "decode": Decode}


def compile_without_end() -> None:
    """Lifts torch's limit on compiled forms of a function, in the whole process.

    All arms are compiled from the same functions. Beyond the limit torch would silently run them eagerly.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = settings.accumulated_recompile_limit = MAX_COMPILED
    settings.fail_on_recompile_limit_hit = True


def forward_fn(model: PreTrainedModel, runtime: Runtime) -> Call:
    """The function that is called for a forward pass: the model, or its compiled form."""
    if runtime.execution is not Execution.compile:
        return model
    compiled: Call = torch.compile(model, backend=runtime.backend, dynamic=False)
    return compiled


def prepare_step(step: Run, runtime: Runtime) -> Run:
    """A step that is ready to be timed: compiled or captured, where the runtime asks for it.

    Raises:
        Unsupported: it can't be compiled here, or no CUDA graph can be made of it.
    """
    if runtime.execution is Execution.cudagraph:
        return CapturedGraph(step)
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


class CapturedGraph:
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


def static_cache(model: PreTrainedModel, filled: Cache) -> Cache:
    """A static cache with the same states and room for `MAX_STEPS` more: the addresses stay, as graphs need.

    Raises:
        Unsupported: a layer sees a window only, or has attention and a recurrent state in one.
    """
    length = max(attention_lengths(filled)["full"], default=0)
    static = StaticCache(config=model.config.get_text_config(), max_cache_len=length + MAX_STEPS)
    layers: list[Any] = filled.layers
    if any(window_of(layer) is not None for layer in (*layers, *static.layers)):
        raise Unsupported("cache=static: layers with sliding-window attention can't be taken back a step in it")
    for number, layer in enumerate(layers):
        if getattr(layer, "keys", None) is None:
            static.layers[number] = layer  # the state of a recurrent layer has its final size in any cache
        elif hasattr(layer, "recurrent_states"):
            raise Unsupported("cache=static: layers with attention and a recurrent state are not supported in it")
        else:
            static.update(layer.keys, layer.values, number)
    return static
