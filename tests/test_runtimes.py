"""Ways of executing a step: compiled, as a graph, on a static cache; and what a graphics card says of itself.

What needs a card is held to its promises on fakes; the tests marked ``gpu`` repeat the essential ones on a real one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bench.config.schema import CacheKind, Execution, Runtime
from bench.instruments import steps as steps_module
from bench.instruments.card import Card, Nvml, card_warnings
from bench.instruments.launches import energy_per_step, summed
from bench.instruments.steps import (
    CAPTURE_WARMUP,
    MAX_STEPS,
    PHASES,
    CapturedGraph,
    Decode,
    Prefill,
    capture_stream,
    compile_without_end,
)
from methods import Unsupported
from methods.compat import cache_argument
from tests.families import FAMILIES, WITHOUT_CACHE, build
from tests.test_conformance import CASES, logits, tokens, trained

COMPILED = Runtime("compile", Execution.compile, CacheKind.static, backend="eager")
STATIC = Runtime("eager", Execution.eager, CacheKind.static)
REAL_CUDA = torch.cuda
GRAPH = Runtime("cudagraph", Execution.cudagraph, CacheKind.static)


@torch.enable_grad()
def served(name: str, family: str = "llama") -> PreTrainedModel:
    attached = trained(name, family)
    attached.prepare_for_inference()
    return attached.model.eval()


@torch.no_grad()
def next_logits(steps: Decode, model: PreTrainedModel) -> torch.Tensor:
    """What the model says on top of the cache that a decode step stands on."""
    argument = {cache_argument(model): steps.cache}
    token = tokens()[:, -1:].to(model.device)
    found: torch.Tensor = model(input_ids=token, use_cache=True, **argument).logits
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_method_decodes_on_a_static_cache(name: str, family: str) -> None:
    """The cache is filled as it always is, then laid out at its final length: the next token is the same."""
    model = served(name, family)
    expected = logits(model, torch.cat([tokens(), tokens()[:, -1:]], dim=1))[:, -1:]
    steps = Decode(model, tokens(), STATIC)
    length = int(steps.cache.get_seq_length())
    torch.testing.assert_close(next_logits(steps, model), expected, atol=2e-5, rtol=1e-4)
    steps.reset()
    steps.run(MAX_STEPS)
    steps.reset()
    assert int(steps.cache.get_seq_length()) == length
    torch.testing.assert_close(next_logits(steps, model), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "-" in n else []) for n in CASES])
@torch.no_grad()
def test_every_method_compiles_as_a_whole(name: str) -> None:
    """Neither phase breaks the graph, and no step compiles it again."""
    torch._dynamo.reset()
    counters.clear()
    model = served(name)
    for kind in PHASES.values():
        steps = kind(model, tokens(), COMPILED)
        made = counters["stats"]["unique_graphs"]
        steps.run(5)
        steps.reset()
        steps.run(2)
        assert counters["stats"]["unique_graphs"] == made > 0
    assert not counters["graph_break"]


@torch.no_grad()
def test_arms_without_end_are_all_compiled() -> None:
    """Past its limit torch would go on in Python without a word, and eager would be timed as compiled."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=False):
        compile_without_end()
        for length in range(2, 10):
            Decode(build("llama"), tokens()[:, :length], COMPILED).run(1)
    assert counters["stats"]["unique_graphs"] == 8


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in WITHOUT_CACHE])
@torch.no_grad()
def test_a_model_compiles_once_or_is_refused(family: str) -> None:
    """OPT takes positions by their number, another one at each step: it would be compiled inside timed blocks."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=64):
        if family == "opt":
            with pytest.raises(Unsupported, match="compiled again at every step"):
                Decode(build(family), tokens(), COMPILED)
            return
        steps = Decode(build(family), tokens(), COMPILED)
    made = counters["stats"]["unique_graphs"]
    steps.run(10)
    assert counters["stats"]["unique_graphs"] == made


@pytest.mark.parametrize("name", ["lora", "prefix_tuning"])
@torch.no_grad()
def test_a_reset_keeps_the_addresses_that_a_graph_reads(name: str) -> None:
    """On a static cache nothing is made anew: keys, values and the length stay where a captured step has them."""
    model = served(name)
    steps = Decode(model, tokens(), STATIC)
    layers: list[Any] = steps.cache.layers

    def addresses() -> list[int]:
        return [t.data_ptr() for layer in layers for t in (layer.keys, layer.values, layer.cumulative_length)]

    before, cache = addresses(), steps.cache
    for _ in range(3):
        steps.run(5)
        steps.reset()
    assert steps.cache is cache
    assert addresses() == before


@dataclasses.dataclass
class FakeCuda:
    """Stands in for ``torch.cuda``: a capture runs the step without its effects being counted, a replay counts."""

    fails: Exception | None = None
    capturing: bool = False
    replays: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(REAL_CUDA, name)

    def Stream(self) -> SimpleNamespace:  # torch's name
        return SimpleNamespace(wait_stream=lambda _: None)

    current_stream = Stream

    @contextlib.contextmanager
    def stream(self, _: object) -> Iterator[None]:
        yield

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=self.replay)

    def replay(self) -> None:
        self.replays += 1

    @contextlib.contextmanager
    def graph(self, _: object, stream: object) -> Iterator[None]:
        self.capturing = True
        try:
            yield
            if self.fails is not None:
                raise self.fails
        except Exception:
            # as torch's own does, for the capture has to be ended, which fails as well
            raise RuntimeError("operation failed due to a previous error during capture") from None
        finally:
            self.capturing = False


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    fake = FakeCuda()
    monkeypatch.setattr(torch, "cuda", fake)
    capture_stream.cache_clear()
    yield fake
    capture_stream.cache_clear()


def test_a_graph_is_captured_once_and_replayed(cuda: FakeCuda) -> None:
    """Libraries get their workspaces before the capture; from then on only the replay runs."""
    seen: list[bool] = []
    run = CapturedGraph(lambda: seen.append(cuda.capturing))
    assert seen == [False] * CAPTURE_WARMUP + [True]
    run()
    run()
    assert (len(seen), cuda.replays) == (CAPTURE_WARMUP + 1, 2)


def test_a_capture_that_fails_is_a_row_with_its_reason(cuda: FakeCuda) -> None:
    """One line, which a skipped row shows: what went wrong, not that the capture was ended for it."""
    cuda.fails = RuntimeError("operation not permitted when stream is capturing\nmore lines")
    with pytest.raises(Unsupported, match=r"of a step: operation not permitted when stream is capturing$") as caught:
        CapturedGraph(lambda: None)
    assert "\n" not in str(caught.value)


def test_out_of_memory_in_a_capture_is_out_of_memory(cuda: FakeCuda) -> None:
    """It is an outcome of its own, not a method that can't run in a graph."""
    cuda.fails = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        CapturedGraph(lambda: None)


@torch.no_grad()
def test_a_graph_keeps_what_it_reads(cuda: FakeCuda) -> None:
    """The prompt of a captured prefill lives as long as the steps: whoever made it need not keep it."""
    prompt = tokens()
    alive = weakref.ref(prompt)
    steps = Prefill(build("llama"), prompt, GRAPH)
    del prompt
    gc.collect()
    assert alive() is not None
    steps.run(1)
    assert cuda.replays == 1


@torch.no_grad()
def test_what_was_tried_out_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs before a capture leave no token in the cache that the first timed step stands on."""

    def warmed(step: Callable[[], object]) -> Callable[[], object]:
        for _ in range(CAPTURE_WARMUP):
            step()
        return step

    monkeypatch.setattr(steps_module, "CapturedGraph", warmed)
    steps = Decode(build("llama"), tokens(), GRAPH)
    assert int(steps.cache.get_seq_length()) == tokens().shape[1]


@torch.no_grad()
def test_a_window_has_no_static_cache() -> None:
    """Layers that see a window only are refused, not taken back to a wrong position."""
    config = AutoConfig.for_model("mistral", **{**FAMILIES["mistral"], "sliding_window": 6})
    sliding = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(Unsupported, match="sliding-window"):
        Decode(sliding, tokens(), STATIC)


def event(start: float, end: float, device: str = "CUDA", annotation: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        time_range=SimpleNamespace(start=start, end=end),
        device_type=SimpleNamespace(name=device),
        is_user_annotation=annotation,
    )


def test_a_device_is_busy_while_any_kernel_runs() -> None:
    """Spans that overlap count once, gaps not at all, and neither do the host's events or annotations."""
    events = [
        event(10, 20),
        event(15, 18),
        event(18, 30),
        event(50, 60),
        event(0, 90, "CPU"),
        event(0, 90, "CUDA", True),
    ]
    found = summed(events, steps=2)
    assert found.kernels == 2
    assert found.busy_seconds == pytest.approx(15e-6)
    assert summed([], steps=2).busy_seconds == 0


def test_energy_is_that_of_many_steps() -> None:
    """Three joules a step come out as three, and the cache is taken back after each run; unknown stays unknown."""
    used = [0.0]

    @dataclasses.dataclass
    class Burning:
        longest: int = 0
        grown: int = 0

        def run(self, count: int) -> None:
            used[0] += 3.0 * count
            self.grown += count
            self.longest = max(self.longest, self.grown)

        def reset(self) -> None:
            self.grown = 0

    def clock(work: Callable[[], None]) -> float:
        work()
        return 0.5

    steps = Burning()
    assert energy_per_step(steps, MAX_STEPS, clock, lambda: used[0]) == pytest.approx(3.0)
    assert steps.longest == MAX_STEPS
    assert energy_per_step(steps, MAX_STEPS, clock, lambda: None) is None


class FakeNvml:
    """An NVML that knows some things and refuses others, as drivers do."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, reasons: int = 0, processes: int = 1) -> None:
        self.reasons = reasons
        self.processes = processes

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: object) -> int:
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, _: object) -> list[int]:
        return [0] * self.processes

    def nvmlDeviceGetClockInfo(self, _: object, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetPowerUsage(self, _: object) -> int:
        return 312_000

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise self.NVMLError(name)

        return refuse


def test_a_card_tells_what_its_driver_tells() -> None:
    """Units are converted, text decoded, and what is refused is unknown and stops nothing."""
    card = Nvml(FakeNvml(reasons=0x04), handle=None)
    seen = card.snapshot()
    assert seen == Card(
        driver="580.1",
        sm_clock_mhz=1980,
        memory_clock_mhz=2619,
        power_watts=312.0,
        slowed_by=("software power cap",),
        processes=1,
    )
    assert card.joules() is None


def test_a_slowed_or_shared_card_is_remarked_on() -> None:
    """Idling and clocks that the user set are no fault; a thermal slowdown and a neighbour are."""
    fine = Nvml(FakeNvml(reasons=0x03), None).snapshot()
    assert card_warnings([fine, fine]) == []
    hot = Nvml(FakeNvml(reasons=0x60, processes=3), None).snapshot()
    told = card_warnings([fine, hot])
    assert told == [
        "the card was slowed down: software thermal slowdown, hardware thermal slowdown",
        "the card was shared with 2 other processes",
    ]
    assert card_warnings([Card()]) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_replayed_graph_computes_what_the_model_does(name: str) -> None:
    """On a real card, over a reset and with nobody else keeping the prompt: the same keys in the same places."""
    torch.manual_seed(0)
    attached = CASES[name].attach(build("llama").cuda())  # on the card, where a method puts its own tensors too
    attached.prepare_for_inference()
    model = attached.model.eval()
    plain, graph = (Decode(model, tokens().cuda(), runtime) for runtime in (STATIC, GRAPH))
    for steps in (plain, graph):
        steps.run(MAX_STEPS)
        steps.reset()
        steps.run(4)
    for one, other in zip(plain.cache.layers, graph.cache.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(next_logits(graph, model), next_logits(plain, model), atol=1e-3, rtol=1e-3)
    Prefill(model, tokens().cuda(), GRAPH).run(2)
