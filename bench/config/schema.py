"""The schema of a configuration: types in code, values in ``conf/``. Free of Hydra and of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bench.config.sources import DataConfig, ModelConfig

MISSING: Any = "???"
"""OmegaConf's mark of a mandatory value. Spelled out here, because importing OmegaConf takes longer than this file."""

HARNESS_KEYS = ("_target_", "learning_rate")
"""Keys of a method's YAML that are not settings of the method."""

REFERENCE_KEY = "reference"
"""Where a cell's configuration has a second method."""
REFERENCE_GROUP = f"method@{REFERENCE_KEY}"
"""What chooses it, from the same files: ``method@reference=NAME``, or null."""

ADDED: dict[str, Any] = {
    "workload.gradient_checkpointing": False,
    "runtime.execution": "eager",
    "runtime.cache": "dynamic",
    "runtime.backend": "inductor",
    "workload.train_reference": None,
    "precision.train_pairs": 0,
    "data.template": None,
    "model.distribution": None,
}
"""Settings that were added after the first records, at the value that every cell had before. At this value they are no
part of a cell's identity, so that records and baselines from before are of the same cells."""

MIN_MARGIN = 0.01
"""Identical copies differ by about 0.2% from process to process: equivalence within less than 1% can't be shown."""
MAX_STEPS = 64
"""Decode steps, discarded ones included, after which at the latest the cache is cut back to the prompt."""
MAX_THREADS = 1024
MAX_PROCESSES = 12
"""If so many processes do not make an interval narrow, more of them hardly will; the verdict is then ``unclear``."""


class DeviceType(StrEnum):
    """Kinds of device."""

    cpu = "cpu"
    cuda = "cuda"


class Sharing(StrEnum):
    """Whether the arms of one process have a copy of the weights each."""

    auto = "auto"
    """Copies where they fit the device."""
    copy = "copy"
    share = "share"


@dataclass
class Workload:
    """What is trained and at which points latency is measured."""

    name: str = MISSING
    train_batch_size: int = MISSING
    train_length: int = MISSING
    """Tokens in a training sequence."""
    train_steps: int = MISSING
    """Optimiser steps of the training budget."""
    held_out_sequences: int = MISSING
    """Sequences of ``train_length`` tokens that loss and accuracy are measured on."""
    batch_sizes: list[int] = MISSING
    prompt_lengths: list[int] = MISSING
    gradient_checkpointing: bool = False
    """Whether a training step recomputes activations instead of keeping them."""
    phases: list[Phase] = field(default_factory=lambda: list(Phase))
    """Phases whose latency is timed; structure and cache are read in any case."""
    train_reference: str | None = None
    """The method, by its name in ``conf/method``, whose training steps are timed in turn with those of the cell's. A
    cell with a reference of its own is timed with that one."""


class Execution(StrEnum):
    """How a step comes to run on the device."""

    eager = "eager"
    """Python launches one operation after the other."""
    compile = "compile"
    """``torch.compile`` made code of the model."""
    cudagraph = "cudagraph"
    """One CUDA graph, captured once and replayed."""


class CacheKind(StrEnum):
    """Where keys and values are kept while tokens are decoded."""

    dynamic = "dynamic"
    """In tensors that grow by concatenation."""
    static = "static"
    """In tensors of their final length, whose addresses stay: compiled code and graphs need that."""


@dataclass
class Runtime:
    """How the model is executed when latency is timed."""

    name: str = MISSING
    execution: Execution = Execution.eager
    cache: CacheKind = CacheKind.dynamic
    backend: str = "inductor"
    """What ``torch.compile`` hands its graphs to."""


@dataclass
class Device:
    """Where it is executed."""

    name: str = MISSING
    type: DeviceType = MISSING
    threads: int | None = None
    """Threads of torch on the CPU; None leaves torch's own choice."""
    sharing: Sharing = Sharing.auto


class Phase(StrEnum):
    """What is timed."""

    prefill = "prefill"
    """One forward pass over the prompt that fills the cache."""
    decode = "decode"
    """One further token a sequence."""


class Start(StrEnum):
    """How a child process begins."""

    forkserver = "forkserver"
    """From a server that has imported what children need: a fraction of a second."""
    spawn = "spawn"
    """As a new interpreter: several seconds, for checking that forked replicates spread as these do."""


def check_margin(margin: float) -> None:
    """Refuses a margin that no measurement can resolve.

    Raises:
        ValueError: it is under 1% or no fraction.
    """
    if not MIN_MARGIN <= margin < 1:
        raise ValueError(f"a margin is a fraction of at least {MIN_MARGIN} and below 1, not {margin:g}")


@dataclass
class Precision:
    """How much is measured."""

    name: str = MISSING
    processes: int = MISSING
    """Replicate processes to begin with; the interval is over these."""
    max_processes: int = 0
    """Processes are added, up to this number, until every interval is narrow enough; 0 for never."""
    margin: float = 0.03
    """The smallest difference that matters, as a fraction: half-widths of at most half of it are wanted."""
    pairs: int = MISSING
    """Adjacent pairs (control, arm) an arm and process."""
    train_pairs: int = 0
    """Adjacent pairs of training blocks (reference, method) a process. 0: training is timed in turn only where a cell
    has a reference, in ``pairs`` pairs."""
    warmup_steps: int = MISSING
    discarded_steps: int = MISSING
    """Steps discarded after each switch to another arm: long steps need fewer, and half of the pairs have one more."""
    block_seconds: float = MISSING
    """Shortest timed block."""
    second_control: bool = True
    """The A/A arm, which shows how far two identical models seem to differ; without it a cell is faster."""
    start: Start = Start.forkserver


@dataclass
class Study:
    """A named sweep."""

    name: str = "run"
    title: str = ""
    grids: list[dict[str, str]] = field(default_factory=list)
    """Grids that run one after the other: overrides, with commas between the values to sweep."""
    published: list[str] = field(default_factory=list)
    """Files of ``conf/published`` whose values stand beside the measured ones: see `bench.report.published`."""


@dataclass
class Config:
    """One cell and where its record goes."""

    method: dict[str, Any] = MISSING
    reference: dict[str, Any] | None = None
    """Another method to measure beside the first, in the same processes."""
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    workload: Workload = field(default_factory=Workload)
    runtime: Runtime = field(default_factory=Runtime)
    device: Device = field(default_factory=Device)
    precision: Precision = field(default_factory=Precision)
    study: Study = field(default_factory=Study)
    seed: int = 0
    profile: bool = False
    time_limit: float = 1800.0
    results_dir: str = "results"


@dataclass(frozen=True)
class Sweep:
    """The composed cells of one study."""

    study: str
    title: str
    results_dir: str
    profile: bool
    time_limit: float
    cells: tuple[dict[str, Any], ...]
    """The configuration of each cell, plain values."""
    notes: tuple[str, ...]
