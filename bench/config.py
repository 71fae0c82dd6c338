"""The schema of a configuration, and how Hydra overrides become composed configurations, one a cell.

Nothing here imports torch, so the command line stays quick. What needs the method's class or the model's shape is
checked next, in a child process (`bench.resolve`), before the first cell starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.errors import UsageError
from bench.sources import DataConfig, ModelConfig

GROUPS = ("method", "model", "data", "workload", "runtime", "device", "precision", "study")
HARNESS_KEYS = ("_target_", "learning_rate")
"""Keys of a method's YAML that are not settings of the method."""


class Switch(StrEnum):
    """off or on."""

    off = "off"
    on = "on"


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


@dataclass
class Runtime:
    """How the model is executed."""

    name: str = MISSING


@dataclass
class Device:
    """Where it is executed."""

    name: str = MISSING
    type: DeviceType = MISSING
    threads: int | None = None
    """Threads of torch on the CPU; None leaves torch's own choice."""
    sharing: Sharing = Sharing.auto


class Start(StrEnum):
    """How a child process begins."""

    forkserver = "forkserver"
    """From a server that has imported what children need: a fraction of a second."""
    spawn = "spawn"
    """As a new interpreter: several seconds, for checking that forked replicates spread as these do."""


@dataclass
class Precision:
    """How much is measured."""

    name: str = MISSING
    processes: int = MISSING
    """Replicate processes; the interval is over these."""
    pairs: int = MISSING
    """Adjacent pairs (control, arm) an arm and process."""
    warmup_steps: int = MISSING
    discarded_steps: int = MISSING
    """Most steps thrown away after each switch to another arm; long steps settle with fewer."""
    block_seconds: float = MISSING
    """Shortest timed block."""
    start: Start = Start.forkserver


@dataclass
class Study:
    """A named sweep."""

    name: str = "run"
    title: str = ""


@dataclass
class Config:
    """One cell and where its record goes."""

    method: dict[str, Any] = MISSING
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    workload: Workload = field(default_factory=Workload)
    runtime: Runtime = field(default_factory=Runtime)
    device: Device = field(default_factory=Device)
    precision: Precision = field(default_factory=Precision)
    study: Study = field(default_factory=Study)
    seed: int = 0
    profile: Switch = Switch.off
    time_limit: float = 1800.0
    results_dir: str = "results"


@dataclass(frozen=True)
class Sweep:
    """The composed cells of one command, not yet resolved."""

    study: str
    title: str
    results_dir: str
    profile: bool
    time_limit: float
    cells: tuple[dict[str, Any], ...]
    """Plain values: the configuration of each cell under ``config`` and its method's name under ``name``."""
    notes: tuple[str, ...]


@cache
def options(group: str) -> tuple[str, ...]:
    """The names that ``group=`` takes: the files of the folder."""
    folder = resources.files("conf") / group
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


@cache
def method_keys(name: str) -> tuple[str, ...]:
    """The keys of ``conf/method/NAME.yaml``."""
    text = (resources.files("conf") / "method" / f"{name}.yaml").read_text()
    return tuple(yaml.safe_load(text))


def compose_run(arguments: Sequence[str]) -> Sweep:
    """One cell.

    Raises:
        UsageError: an override is unknown, malformed or a sweep.
    """
    parsed = _parse(arguments)
    for override in parsed:
        if override.is_sweep_override():
            raise UsageError(f"{override.input_line}: 'run' takes one cell; use 'multirun' for several")
    return _sweep([list(arguments)], [], {})


def compose_multirun(arguments: Sequence[str]) -> Sweep:
    """The grid of a study with the overrides of the command line on top; ``study=default`` where none is named.

    Raises:
        UsageError: an override is unknown or malformed.
    """
    parsed = _parse(arguments)
    study = next((o.value() for o in parsed if o.key_or_group == "study"), "default")
    given = {o.key_or_group for o in parsed}
    extra = [] if "study" in given else [f"study={study}"]
    grid = {key: value for key, value in _grid(str(study)).items() if key not in given}
    swept = _parse([f"{key}={value}" for key, value in grid.items()])
    batches = BasicSweeper.split_arguments([*swept, *parsed], max_batch_size=None)
    jobs = [[*extra, *job] for batch in batches for job in batch]
    return _sweep(*_applicable(jobs), grid)


def _sweep(jobs: Sequence[Sequence[str]], notes: Iterable[str], grid: Mapping[str, str]) -> Sweep:
    configs = [_compose(job) for job in jobs]
    if not configs:
        raise UsageError("the sweep has no cell: an override has no values")
    first = configs[0]
    for config in configs:
        if (config.results_dir, config.study) != (first.results_dir, first.study):
            raise UsageError("results_dir and study can't be swept: give each its own command")
    cells = []
    for config in configs:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))
        for key in ("study", "results_dir", "profile", "time_limit"):
            plain.pop(key)
        cells.append(plain)
    return Sweep(
        study=first.study.name,
        title=first.study.title,
        results_dir=first.results_dir,
        profile=first.profile == Switch.on,
        time_limit=first.time_limit,
        cells=tuple(cells),
        notes=tuple(notes),
    )


def _parse(arguments: Sequence[str]) -> list[Override]:
    try:
        parsed = OverridesParser.create().parse_overrides(list(arguments))
    except HydraException as error:
        raise UsageError(_line(error)) from error
    for override in parsed:
        group = override.key_or_group
        if group in GROUPS and not override.is_delete():
            for name in _values(override):
                if name is not None and str(name) not in options(group):
                    raise UsageError(f"{group}={name}: unknown {group}{_hint(str(name), options(group))}")
    return parsed


def _values(override: Override) -> list[Any]:
    if override.is_sweep_override():
        jobs = BasicSweeper.split_arguments([override], max_batch_size=None)[0]
        return [argument.split("=", 1)[1] for job in jobs for argument in job]
    return [override.value()]


def _grid(study: str) -> dict[str, str]:
    """``hydra.sweeper.params`` of a study."""
    params = _compose([f"study={study}"], with_hydra=True).hydra.sweeper.params or {}
    return {str(key): str(value) for key, value in params.items()}


def _applicable(jobs: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Drops ``method.*`` settings that this job's method lacks and another method of the sweep has.

    Crossing everything with everything would otherwise make ``method=lora,adapter method.rank=4,16`` an error.
    """
    named = [_method_of(job) for job in jobs]
    kept: list[list[str]] = []
    notes: dict[str, None] = {}
    for name, job in zip(named, jobs, strict=True):
        own = []
        for argument in job:
            key = argument.split("=", 1)[0].lstrip("+~")
            setting = key.removeprefix("method.").split(".")[0]
            elsewhere = any(setting in method_keys(other) for other in named)
            if key.startswith("method.") and setting not in method_keys(name) and elsewhere:
                notes[f"{key} does not apply to {name}: its cells are run once"] = None
            else:
                own.append(argument)
        kept.append(own)
    return kept, list(notes)


def _method_of(job: Sequence[str]) -> str:
    names = [argument.split("=", 1)[1] for argument in job if argument.startswith("method=")]
    return names[-1] if names else "lora"


def _compose(job: Sequence[str], with_hydra: bool = False) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=Config)
    try:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("config", list(job), return_hydra_config=with_hydra)
        if not with_hydra:
            OmegaConf.resolve(config)
            if missing := OmegaConf.missing_keys(config):
                raise UsageError(f"{', '.join(sorted(missing))} must be given: add {sorted(missing)[0]}=VALUE")
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_line(error)) from error


def _line(error: Exception) -> str:
    """What Hydra or OmegaConf found, in one line; the cause says more than the frame around it."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if unknown := re.search(r"Could not override '([^']+)'", str(error)):
        group, _, key = unknown[1].rpartition(".")
        where = f"{group} has no key '{key}'" if group else f"there is no key '{key}'"
        return f"{unknown[1]}: {where}; see conf/{group.split('.')[0] or 'config.yaml'} for those there are"
    text = str(error) if cause is error else f"{error}: {cause}"
    # what follows is where the grammar is documented, or where in the schema the key stands
    return " ".join(re.split(r"See https|\n\s*full_key", text)[0].split())


def _hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
