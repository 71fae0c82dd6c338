"""From Hydra overrides to composed configurations, one a cell.

Nothing here imports torch, so that the command line stays quick. What needs the method's class or the model's shape is
checked next, in a child process (`bench.workload.resolve.resolve`), before the first cell starts.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.groups import OUTSIDE_LEARNING_RATE, conf, default, method_settings, options, outside_methods
from bench.config.keys import GROUPS, check_option, check_renamed
from bench.config.schema import REFERENCE_GROUP, REFERENCE_KEY, Config, Sweep
from bench.config.settings import read_settings
from bench.errors import UsageError, refuse

UNSWEPT = ("study", "results_dir", "profile", "time_limit")
"""Keys that belong to a command, not to a cell."""
DEFAULT_STUDY = "default"


def compose_run(arguments: Sequence[str]) -> Sweep:
    """One cell.

    Raises:
        UsageError: an override is unknown, malformed or a sweep.
    """
    with _hydra():
        for override in _parse(arguments):
            if override.is_sweep_override():
                raise UsageError(f"{override.input_line}: 'run' takes one cell; use 'multirun' for several")
        return _sweep(*_applicable([list(arguments)]))


def compose_multirun(arguments: Sequence[str]) -> list[Sweep]:
    """The grid of each study named, with the overrides of the command line on top; ``study=default`` where none is.

    Raises:
        UsageError: an override is unknown or malformed.
    """
    with _hydra():
        parsed = _parse(arguments, studies=True)
        if [override.key_or_group for override in parsed].count("study") > 1:
            raise UsageError("study is given twice: name several with commas, study=a,b")
        rest = [override for override in parsed if override.get_key_element().lstrip("+~") != "study"]
        named = [override for override in parsed if override not in rest] or [_parse_one(f"study={DEFAULT_STUDY}")]
        return [_study(argument, rest) for (argument,) in _cross(named)]


def _study(argument: str, parsed: Sequence[Override]) -> Sweep:
    """One study, chosen by ``argument``."""
    given = {override.get_key_element().lstrip("+~") for override in parsed}
    name = _value(_parse_one(argument))
    jobs = []
    for grid in [{}] if name is None else _grids(name):
        swept = _parse([f"{key}={value}" for key, value in grid.items() if key not in given])
        jobs += [[argument, *job] for job in _cross([*swept, *parsed])]
    return _sweep(*_applicable(jobs))


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra on ``conf/``, with whatever it has to say about the input in one line."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for name, target in outside_methods().items():
        store.store(group="method", name=name, node={"_target_": target, "learning_rate": OUTSIDE_LEARNING_RATE})
    try:
        with initialize_config_dir(str(conf().absolute()), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_line(error)) from error


def _parse(arguments: Sequence[str], studies: bool = False) -> list[Override]:
    loader = GlobalHydra.instance().config_loader()  # knows the names that glob() stands for
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    for override in parsed:
        key = override.key_or_group
        check_renamed(override.get_key_element().lstrip("+~"))
        if override.is_hydra_override():
            raise UsageError(f"{key}: Hydra's own settings have no effect here; leave it out")
        if key.partition(".")[0] in UNSWEPT and override.is_sweep_override() and not (studies and key == "study"):
            raise UsageError(f"{key} can't be swept: give each its own command")
        if key in GROUPS and not override.is_delete():
            _check_names(override)
    return parsed


def _check_names(override: Override) -> None:
    swept = override.is_sweep_override()
    names = [_value(_parse_one(argument)) for (argument,) in _cross([override])] if swept else [_value(override)]
    for name in names:
        check_option(override.get_key_element().lstrip("+~"), name)


def _parse_one(argument: str) -> Override:
    return OverridesParser.create().parse_override(argument)


def _value(override: Override) -> str | None:
    """What a single override says, without quotes."""
    value = None if override.is_delete() else override.value()
    return None if value is None else str(value)


def _cross(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of what the overrides sweep over."""
    try:
        (jobs,) = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    except ValueError as error:  # a range without an end
        raise UsageError(f"{' '.join(str(o.input_line) for o in overrides)}: {error}") from error
    return jobs


def _grids(study: str) -> list[dict[str, str]]:
    """``study.grids`` of a study's file."""
    config = compose("config", [f"study={study}"], return_hydra_config=True)
    if config.hydra.sweeper.params:
        raise UsageError(f"conf/study/{study}.yaml: hydra.sweeper.params is now called study.grids, a list of grids")
    return [{str(key): str(value) for key, value in grid.items()} for grid in config.study.grids or [{}]]


def _applicable(jobs: Sequence[Sequence[str]]) -> tuple[list[list[str]], list[str]]:
    """Each job with the settings that its own method has.

    ``NAME.setting`` belongs to the method NAME alone. ``method.setting`` is dropped if this job's method lacks it and
    another method of the sweep has it. Otherwise ``method=lora,adapter method.rank=4,16`` would be an error.
    """
    named = [_method_of(job, "method") or default("method") for job in jobs]
    kept: list[list[str]] = []
    notes: dict[str, None] = {}
    for name, job in zip(named, jobs, strict=True):
        own = []
        for argument in job:
            sign, key, rest = _split(argument)
            first, _, setting = key.partition(".")
            if setting and first in options("method"):
                if first not in named:
                    raise UsageError(f"{argument}: no cell has the method {first}; add it to method=")
                if first != name:
                    continue
                key = f"method.{setting}"
            elif first == "method" and not _has(name, setting) and any(_has(other, setting) for other in named):
                notes[f"{argument} does not apply to {name}: its cells are run once"] = None
                continue
            elif key == REFERENCE_GROUP and _value(_parse_one(argument)) is None:
                sign, rest = "~", ""  # Hydra takes no null for a group
            reference = first == REFERENCE_KEY and _method_of(job, REFERENCE_GROUP)
            own.append(f"{_sign(sign, reference or name, key)}{key}{rest}")
        kept.append(own)
    return kept, list(notes)


def _split(argument: str) -> tuple[str, str, str]:
    """Signs, key, and the rest from the equals sign on."""
    bare = argument.lstrip("+~")
    key, equals, value = bare.partition("=")
    return argument[: len(argument) - len(bare)], key, equals + value


def _has(name: str, setting: str) -> bool:
    """Whether the method ``name`` may have the setting: a class of another package is asked later."""
    settings = method_settings(name)
    return setting == "" or settings is None or setting.partition(".")[0] in settings


def _sign(sign: str, name: str, key: str) -> str:
    """The sign with which Hydra takes a key: one that no file names yet is added, where a method has room for it."""
    first, _, setting = key.partition(".")
    if sign or first not in ("method", REFERENCE_KEY) or not setting:
        return sign
    settings = method_settings(name)
    room = settings is None or isinstance(settings.get(setting.partition(".")[0]), dict)
    return "++" if room else ""


def _method_of(job: Sequence[str], group: str) -> str:
    """The method that a job chooses for ``method`` or ``method@reference``; empty where it chooses none."""
    names = [_value(_parse_one(argument)) for argument in job if argument.startswith(f"{group}=")]
    return (names[-1] or "") if names else ""


def _sweep(jobs: Sequence[Sequence[str]], notes: Iterable[str]) -> Sweep:
    configs = [_compose(job) for job in jobs]
    if not configs:
        raise UsageError("the sweep has no cell: an override has no values")
    first = configs[0]
    _check(first)
    cells = []
    for config in configs:
        plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, enum_to_str=True))
        absent = (*UNSWEPT, *(() if plain[REFERENCE_KEY] else (REFERENCE_KEY,)))
        cells.append({key: value for key, value in plain.items() if key not in absent})
    refuse(problem for cell in cells if (problem := _problem(cell)))
    return Sweep(
        study=first.study.name,
        title=first.study.title,
        results_dir=first.results_dir,
        profile=first.profile,
        time_limit=first.time_limit,
        cells=tuple(cells),
        notes=tuple(notes),
    )


def _problem(cell: dict[str, Any]) -> str | None:
    """What is wrong with a cell, as far as that is known without torch."""
    try:
        read_settings(cell)
    except UsageError as error:
        return str(error)
    return None


def _check(config: DictConfig) -> None:
    known = {field.name for field in dataclasses.fields(Config)}
    if unknown := sorted(set(config) - known):
        raise UsageError(f"there is no key '{unknown[0]}'; see conf/config.yaml")
    if deleted := sorted(known - set(config)):
        raise UsageError(f"~{deleted[0]}: every cell needs it; leave this out")
    if not 0 < config.time_limit < math.inf:
        raise UsageError(f"time_limit must be a positive number of seconds, not {config.time_limit}")
    if not config.results_dir.strip():
        raise UsageError("results_dir must name a folder; leave it out for 'results'")


def _compose(job: Sequence[str]) -> DictConfig:
    try:
        config = compose("config", list(job))
    except (HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # Hydra trips over what it does not expect: a list for a name, a setting of null
        ours = [argument for argument in job if _split(argument)[1].partition(".")[0] == REFERENCE_KEY]
        if ours and not _method_of(job, REFERENCE_GROUP):
            raise UsageError(f"{ours[0]}: there is no reference; add {REFERENCE_GROUP}=NAME") from error
        raise UsageError(f"{' '.join(job)}: {' '.join(str(error).split())}") from error
    OmegaConf.resolve(config)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise UsageError(f"{', '.join(missing)} must be given: add {missing[0]}=VALUE")
    return config


def _line(error: Exception) -> str:
    """What Hydra or OmegaConf found, in one line; the cause says more than the frame around it."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if unknown := re.search(r"Could not override '([^']+)'", str(error)):
        full = str(getattr(error.__cause__, "full_key", None) or unknown[1])  # of a whole dictionary, the key in it
        group, _, key = full.rpartition(".")
        where = f"{group} has no key '{key}'" if group else f"there is no key '{key}'"
        return f"{full}: {where}; see conf/{group.split('.')[0] or 'config.yaml'}"
    text = str(error) if cause is error else f"{error}: {cause}"
    # what follows is where the grammar is documented, or where in the schema the key stands
    return " ".join(re.split(r"See https|\n\s*full_key", text)[0].split())
