"""How Hydra overrides become composed configurations, one a cell.

Nothing here imports torch, so the command line stays quick. What needs the method's class or the model's shape is
checked next, in a child process (`bench.plan.resolve`), before the first cell starts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config import Config, Sweep, Switch
from bench.errors import UsageError

GROUPS = ("method", "model", "data", "workload", "runtime", "device", "precision", "study")


@cache
def options(group: str) -> tuple[str, ...]:
    """The names that ``group=`` takes: the files of the folder."""
    folder = resources.files("conf") / group
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


@cache
def default(group: str) -> str:
    """The name that ``group`` has where nobody chooses another."""
    defaults = yaml.safe_load((resources.files("conf") / "config.yaml").read_text())["defaults"]
    return next(str(entry[group]) for entry in defaults if isinstance(entry, dict) and group in entry)


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
    return names[-1] if names else default("method")


def _compose(job: Sequence[str], with_hydra: bool = False) -> DictConfig:
    ConfigStore.instance().store(name="schema", node=Config)
    try:
        with initialize_config_module("conf", version_base="1.3"):
            config = compose("config", list(job), return_hydra_config=with_hydra)
        if not with_hydra:
            OmegaConf.resolve(config)
            if missing := sorted(OmegaConf.missing_keys(config)):
                raise UsageError(f"{', '.join(missing)} must be given: add {missing[0]}=VALUE")
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
