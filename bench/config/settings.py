"""A cell's settings, typed and checked as far as that is possible without torch and without the method's class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.config.keys import check_option
from bench.config.method_source import check_method
from bench.config.schema import (
    MAX_PROCESSES,
    MAX_STEPS,
    MAX_THREADS,
    REFERENCE_KEY,
    CacheKind,
    Device,
    DeviceType,
    Execution,
    Precision,
    Runtime,
    Workload,
    check_margin,
)
from bench.config.sources import DataConfig, ModelConfig, SourceError
from bench.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One cell, typed, but for its methods."""

    learning_rate: float
    reference_learning_rate: float
    model: ModelConfig
    data: DataConfig
    workload: Workload
    runtime: Runtime
    device: Device
    precision: Precision
    seed: int

    def points(self) -> list[tuple[int, int]]:
        """(batch size, prompt length) of every workload point."""
        return [(batch, length) for batch in self.workload.batch_sizes for length in self.workload.prompt_lengths]


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Types and checks the plain configuration of a cell.

    Raises:
        UsageError: a value has the wrong type or is out of range, a key is unknown, or a local file is missing.
    """
    _check_finite(config, "")
    keys = ("method", *((REFERENCE_KEY,) if REFERENCE_KEY in config else ()))
    rates = {key: _learning_rate(config[key], key) for key in keys}
    settings = Settings(
        learning_rate=rates["method"],
        reference_learning_rate=rates.get(REFERENCE_KEY, rates["method"]),
        model=_typed(ModelConfig, config["model"], "model"),
        data=_typed(DataConfig, config["data"], "data"),
        workload=_typed(Workload, config["workload"], "workload"),
        runtime=_typed(Runtime, config["runtime"], "runtime"),
        device=_typed(Device, config["device"], "device"),
        precision=_typed(Precision, config["precision"], "precision"),
        seed=int(config["seed"]),
    )
    for key in keys:
        check_method(config[key], key)
    _check_numbers(settings)
    _check_choices(settings)
    _check_runtime(settings.runtime)
    try:
        settings.model.check_path()
        settings.data.check_path()
    except SourceError as error:
        raise UsageError(str(error)) from error
    return settings


def merged(schema: DictConfig, values: Mapping[str, Any]) -> Any:
    """An object of the schema's class with ``values``; OmegaConf converts and checks their types.

    Raises:
        OmegaConfBaseException: a key is unknown or a value has the wrong type.
    """
    return OmegaConf.to_object(OmegaConf.merge(schema, dict(values)))


def first_line(error: Exception) -> str:
    """What OmegaConf says of a value, with the key, in one line."""
    key = getattr(error, "full_key", None)
    text = str(error).split("\n", maxsplit=1)[0]
    return f"{key}: {text}" if key and key not in text else text


def _typed(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return cast(T, merged(OmegaConf.structured(kind), values))
    except OmegaConfBaseException as error:
        raise UsageError(f"{where}: {first_line(error)}") from error


def _learning_rate(config: Mapping[str, Any], key: str) -> float:
    rate = config.get("learning_rate")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0:
        raise UsageError(f"{key}.learning_rate must be a positive number, not {rate}")
    return float(rate)


def _check_finite(values: Mapping[str, Any], prefix: str) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _check_finite(value, f"{prefix}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{prefix}{key} must be a finite number, not {value}")


def _check_numbers(settings: Settings) -> None:
    work, precision = settings.workload, settings.precision
    for key, values in (("batch_sizes", work.batch_sizes), ("prompt_lengths", work.prompt_lengths)):
        if not values or not all(type(value) is int and value > 0 for value in values):
            raise UsageError(f"workload.{key} must be a list of whole numbers of at least 1, not {values}")
        if len(set(values)) < len(values):
            raise UsageError(f"workload.{key} names a value twice: {values}; a point is measured once")
    cuda = settings.device.type is DeviceType.cuda
    ranges = {
        "seed": (settings.seed, 0, 2**63 - 1),
        "workload.train_batch_size": (work.train_batch_size, 1, None),
        "workload.train_length": (work.train_length, 2, None),
        # a first, a tracked and a timed step, and on CUDA one for the allocator's own peaks
        "workload.train_steps": (work.train_steps, 4 if cuda else 3, None),
        "workload.held_out_sequences": (work.held_out_sequences, 1, None),
        "precision.processes": (precision.processes, 1, None),
        "precision.max_processes": (precision.max_processes, 0, MAX_PROCESSES),
        "precision.pairs": (precision.pairs, 1, None),
        "precision.train_pairs": (precision.train_pairs, 0, None),
        "precision.warmup_steps": (precision.warmup_steps, 1, MAX_STEPS),
        "precision.discarded_steps": (precision.discarded_steps, 0, MAX_STEPS - 2),
        "device.threads": (1 if settings.device.threads is None else settings.device.threads, 1, MAX_THREADS),
    }
    for key, (value, least, most) in ranges.items():
        if value < least:
            raise UsageError(f"{key} must be at least {least}, not {value}")
        if most is not None and value > most:
            raise UsageError(f"{key} must be at most {most}, not {value}")


def _check_choices(settings: Settings) -> None:
    work, precision = settings.workload, settings.precision
    if not work.phases or len(set(work.phases)) < len(work.phases):
        raise UsageError(f"workload.phases must name prefill, decode or both, not {[str(p) for p in work.phases]}")
    if work.train_reference is not None:
        check_option("workload.train_reference", work.train_reference, "method")
    try:
        check_margin(precision.margin)
    except ValueError as error:
        raise UsageError(f"precision.margin: {error}") from error
    if precision.block_seconds <= 0:
        raise UsageError(f"precision.block_seconds must be positive, not {precision.block_seconds}")


def _check_runtime(runtime: Runtime) -> None:
    if runtime.execution is not Execution.eager and runtime.cache is not CacheKind.static:
        raise UsageError(
            f"runtime.cache={runtime.cache}: {runtime.execution} needs addresses that stay; use runtime.cache=static"
        )
